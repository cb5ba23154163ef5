"""Steps as a program that is recorded from the model's own forward."""
