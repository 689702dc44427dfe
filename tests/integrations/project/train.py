"""The seed case: experts by Hugging Face's Trainer, branched by the launcher."""

from model import Text, experts
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

import launcher
from launcher.integrations.transformers import train


@launcher.main(config_path="conf", config_name="config")
def main(cfg, run):
    trainer = Trainer(
        model=experts(cfg),
        args=TrainingArguments(
            output_dir=run.directory / "trainer",
            seed=run.seed,
            use_cpu=run.device.type == "cpu",
            max_steps=run.end_step,
            learning_rate=cfg.learning_rate,
            warmup_steps=4,
            per_device_train_batch_size=cfg.batch_size,
            logging_steps=cfg.training.log_every,
            eval_strategy="steps",
            eval_steps=cfg.training.validate_every,
            save_steps=cfg.save_steps,
            metric_for_best_model="loss",
            load_best_model_at_end=cfg.best,
            label_names=["labels"],
            report_to=cfg.report_to,
            disable_tqdm=True,
        ),
        train_dataset=Text(cfg.text),
        eval_dataset=Text("held out", 8),
        callbacks=[EarlyStoppingCallback(cfg.patience, cfg.threshold)],
    )
    train(trainer, run)
    if cfg.best:
        trainer.save_model(run.directory / "final")


if __name__ == "__main__":
    main()
