"""The answers of `/v1/completions`."""

from __future__ import annotations

from typing import Any

from counterpoint.engine import TokenLogprob
from counterpoint.server.answers import Answer, Offsets, Sample
from counterpoint.wire.numbers import logprob


class CompletionAnswer(Answer):
    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _choice(self, index: int, prompt: int, sample: Sample) -> dict[str, Any]:
        text = self.work.echoes[prompt] + sample.text
        reason = sample.finish_reason if self.work.writes else "length"
        logprobs = self._echoed(prompt, sample.logprobs, Offsets(self.label))
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _silent(self, index: int) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": None}

    def _deltas(self, index, prompt, first, text, logprobs, sample):
        text = (self.work.echoes[prompt] if first else "") + text
        if text or logprobs or sample.finish_reason:
            shown = (
                self._echoed(prompt, logprobs, sample.offsets) if first else self._logprobs(logprobs, sample.offsets)
            )
            yield {"index": index, "text": text, "logprobs": shown, "finish_reason": sample.finish_reason}

    def _echoed(self, prompt: int, logprobs: list[TokenLogprob], offsets: Offsets) -> dict[str, Any] | None:
        """The numbers of a prompt, where they are asked for, then those of its output. Nothing predicts the first token."""
        if self.work.echoes[prompt] and self.work.shows_logprobs:
            first = self.work.requests[prompt].prompt_ids[0]
            return self._logprobs([TokenLogprob(first, 0.0), *self.scored[prompt].logprobs, *logprobs], offsets, True)
        return self._logprobs(logprobs, offsets)

    def _logprobs(
        self, logprobs: list[TokenLogprob], offsets: Offsets, is_first_unknown: bool = False
    ) -> dict[str, Any] | None:
        if not logprobs or not self.work.shows_logprobs:
            return None
        made = {
            "tokens": [self.label(t.token_id) for t in logprobs],
            "token_logprobs": [logprob(t.logprob) for t in logprobs],
            "top_logprobs": [self._top(t) for t in logprobs],
            "text_offset": [offsets.take(t.token_id) for t in logprobs],
        }
        if is_first_unknown:
            made["token_logprobs"][0] = made["top_logprobs"][0] = None
        return made

    def _top(self, chosen: TokenLogprob) -> dict[str, float]:
        """Label to number. Where two tokens have one label, the likelier is told."""
        top: dict[str, float] = {}
        for token_id, value in (*chosen.top, (chosen.token_id, chosen.logprob)):
            label = self.label(token_id)
            top[label] = max(logprob(value), top.get(label, logprob(value)))
        return top
