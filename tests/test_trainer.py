def test_a_short_run_trains(make_trainer):
    trainer = make_trainer(eval_strategy="steps", eval_steps=2)
    trainer.train()
    print(trainer.state.log_history)
