"""Experts, each a LoRA adapter, on a small language model; texts as bytes. Nothing of the launcher."""

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM

BLOCK = 16


class Text(Dataset):
    def __init__(self, name, size=48):
        source = {
            "digits": " ".join(str(number) for number in range(900)),
            "squares": " ".join(str(number * number) for number in range(900)),
            "held out": " ".join(str(number) for number in range(5000, 5900)),
        }[name]
        self.name, self.bytes = name, torch.tensor(list(source.encode()))
        self.size = min(size, len(self.bytes) // BLOCK)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        ids = self.bytes[index * BLOCK : (index + 1) * BLOCK]
        return {"input_ids": ids, "labels": ids}

    def fingerprint(self):
        return self.name


def experts(cfg):
    base = AutoModelForCausalLM.from_pretrained(cfg.base_model)
    if cfg.num_experts == 0:
        return base
    config = LoraConfig(
        r=cfg.lora_r, lora_dropout=cfg.lora_dropout, target_modules=["c_attn"], fan_in_fan_out=True
    )
    names = [f"expert{number}" for number in range(cfg.num_experts)]
    model = get_peft_model(base, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    model.base_model.set_adapter(names)
    return model
