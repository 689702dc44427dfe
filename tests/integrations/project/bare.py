"""The same without the launcher: trainer.train(), and the digest of where it ends."""

import hashlib
import random

import numpy as np
import torch
from model import Text, experts
from omegaconf import OmegaConf
from transformers import Trainer, TrainingArguments

cfg = OmegaConf.load("conf/config.yaml")
torch.set_num_threads(1)
random.seed(cfg.seed)
np.random.seed(cfg.seed)
torch.manual_seed(cfg.seed)
trainer = Trainer(
    model=experts(cfg),
    args=TrainingArguments(
        output_dir="bare",
        seed=cfg.seed,
        use_cpu=True,
        max_steps=cfg.training.steps,
        learning_rate=cfg.learning_rate,
        warmup_steps=4,
        per_device_train_batch_size=cfg.batch_size,
        logging_steps=cfg.training.log_every,
        eval_strategy="steps",
        eval_steps=cfg.training.validate_every,
        save_steps=cfg.save_steps,
        metric_for_best_model="loss",
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
    ),
    train_dataset=Text(cfg.text),
    eval_dataset=Text("held out", 8),
)
trainer.train()
