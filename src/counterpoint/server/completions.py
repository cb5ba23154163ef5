"""The answers of `/v1/completions`."""

from __future__ import annotations

from typing import Any

from counterpoint.engine import TokenLogprob
from counterpoint.server.answers import Answer, Sample
from counterpoint.server.offsets import Offsets
from counterpoint.wire.numbers import logprob


class CompletionAnswer(Answer):
    prefix, whole_object, chunk_object = "cmpl-", "text_completion", "text_completion"

    def _choice(self, index: int, prompt: int, sample: Sample) -> dict[str, Any]:
        text = self.work.echoes[prompt] + sample.text
        reason = sample.finish_reason if self.work.writes else "length"
        logprobs = self._echoed(prompt, sample.logprobs, Offsets(self.label, self.work.echoes[prompt]))
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
        if not self.body.echo or not self.work.shows_logprobs:
            return self._logprobs(logprobs, offsets)
        first = TokenLogprob(self.work.requests[prompt].prompt_ids[0], 0.0)
        of_prompt = [first, *self.scored[prompt].logprobs]
        places = [offsets.take_echoed(t.token_id) for t in of_prompt]
        offsets.end_echo()
        made = self._told([*of_prompt, *logprobs], places + [offsets.take(t.token_id) for t in logprobs])
        made["token_logprobs"][0] = made["top_logprobs"][0] = None
        return made

    def _logprobs(self, logprobs: list[TokenLogprob], offsets: Offsets) -> dict[str, Any] | None:
        if not logprobs or not self.work.shows_logprobs:
            return None
        return self._told(logprobs, [offsets.take(t.token_id) for t in logprobs])

    def _told(self, logprobs: list[TokenLogprob], places: list[int]) -> dict[str, Any]:
        return {
            "tokens": [self.name_of(t.token_id) for t in logprobs],
            "token_logprobs": [logprob(t.logprob) for t in logprobs],
            "top_logprobs": [self._top(t) for t in logprobs],
            "text_offset": places,
        }

    def _top(self, chosen: TokenLogprob) -> dict[str, float]:
        """Label to number. Where two tokens have one label, the likelier is told."""
        top: dict[str, float] = {}
        for token_id, value in (*chosen.top, (chosen.token_id, chosen.logprob)):
            label = self.name_of(token_id)
            top[label] = max(logprob(value), top.get(label, logprob(value)))
        return top
