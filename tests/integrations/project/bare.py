"""The same without the launcher: trainer.train()."""

import random
import sys

import numpy as np
import torch
from model import Text, experts
from omegaconf import OmegaConf
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

cfg = OmegaConf.merge(OmegaConf.load("conf/config.yaml"), OmegaConf.from_dotlist(sys.argv[1:]))
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
    callbacks=[EarlyStoppingCallback(cfg.patience, cfg.threshold)],
)
trainer.train()
