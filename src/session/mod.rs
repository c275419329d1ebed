//! Where policy, layout, engine and reader meet: the model and the checkpointing session.
