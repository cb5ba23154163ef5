import torch

from counterpoint.vllm.v1 import ChosenRows


class Argmax(torch.nn.Module):
    """In place of vLLM's: the most probable token, and what it was asked."""

    def __init__(self, logprobs_mode="raw_logprobs"):
        super().__init__()
        self.logprobs_mode = logprobs_mode

    def forward(self, logits, generators, k, p):
        self.asked = logits, generators, k, p
        return logits.argmax(-1), None


def test_only_the_rows_whose_token_counts_are_drawn():
    rows = ChosenRows(Argmax())
    logits, generator = torch.randn(5, 7), torch.Generator()
    rows.rows = [1, 4]
    drawn, _ = rows(logits, {4: generator}, torch.arange(5), None)
    asked, generators, k, p = rows.sampler.asked
    assert torch.equal(asked, logits[[1, 4]]) and generators == {1: generator} and k.tolist() == [1, 4] and p is None
    assert drawn.tolist() == [0, logits[1].argmax(), 0, 0, logits[4].argmax()]


def test_all_rows_are_drawn_where_none_is_chosen_or_all_are_reported():
    logits = torch.randn(3, 7)
    for rows, chosen in ((ChosenRows(Argmax()), []), (ChosenRows(Argmax("processed_logits")), [1])):
        rows.rows = chosen
        assert torch.equal(rows(logits, {}, None, None)[0], logits.argmax(-1))
