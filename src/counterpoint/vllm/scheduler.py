"""vLLM's scheduler, with guided requests: a request and the hidden ones of its branches advance together or not at all.

The group is queued in one piece and served first-come-first-served, so that at most the last admitted group is split.
A branch that ran without the others forgets its token and redoes its last position. When one is preempted, the others
yield at the next step: by that event, never by the state of being split, which would preempt for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.outputs import RequestError
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from counterpoint.errors import Failure, UnsupportedError, UsageError
from counterpoint.vllm import versions
from counterpoint.vllm.arrival import (
    ONLY_TOKENS,
    Vocabulary,
    branch_ids,
    refuse_beam,
    refuse_idle,
)
from counterpoint.vllm.branches import Group, Groups, branch_id, owner_of
from counterpoint.vllm.capacity import Capacity
from counterpoint.vllm.config import refuse_mixed_adapters, refuse_unsupported, setting
from counterpoint.vllm.metrics import Metrics
from counterpoint.vllm.params import Plan, read
from counterpoint.vllm.watchdog import STALL_S, STALL_STEPS, Watchdog

versions.require()
logger = init_logger("vllm.counterpoint")
ERRORS_ARE_TOLD = "error" in EngineCoreOutput.__struct_fields__


class GuidedScheduler(Scheduler):
    """`--scheduler-cls counterpoint.vllm.scheduler.GuidedScheduler`."""

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:
        refuse_unsupported(vllm_config)
        super().__init__(vllm_config, *args, **kwargs)
        if self.has_mamba_layers:
            raise UnsupportedError("counterpoint.vllm: the model keeps a recurrent state, which can't redo a position")
        self.groups = Groups()
        self.metrics = Metrics()
        self.capacity = Capacity.of(self)
        self.watchdog = Watchdog(
            steps=int(setting(vllm_config, "stall_steps", STALL_STEPS)),
            seconds=setting(vllm_config, "stall_s", STALL_S),
        )
        self._tokenizer: Any = None
        self._broken: dict[Group, None] = {}  # in the order of the events
        self._parked: dict[Group, None] = {}
        self._refused: dict[str, tuple[str, str]] = {}  # a code of vLLM's and the reason, by request
        self._errors: list[tuple[int, EngineCoreOutput]] = []

    # Arrival

    def add_request(self, request: Request) -> None:
        params = request.sampling_params
        known = request.request_id in self.requests
        super().add_request(request)
        if known or params is None:
            return
        try:
            refuse_beam(request.request_id, params)
            plan = read(params.extra_args)
            if plan is not None:
                self._add_group(request, plan)
        except UsageError as error:
            self._refuse(request.request_id, str(error), code="validation_error")
            self.metrics.add("refused_requests")

    def _add_group(self, request: Request, plan: Plan) -> None:
        refuse_mixed_adapters(self.vllm_config, request.lora_request)
        contexts = self._contexts(request, plan)
        if contexts:
            tokens_left = self.capacity.tokens_left([request.num_prompt_tokens, *map(len, contexts)])
            request.max_tokens = min(request.max_tokens, tokens_left)
        model = self.vllm_config.model_config
        refuse_idle(
            plan,
            request.sampling_params,
            num_tokens=request.max_tokens,
            vocab_size=model.get_vocab_size(),
            alone=len(model.logits_processors) == 1,
        )
        self.metrics.add("guided_requests")
        if not contexts:
            return
        group = Group(request.request_id, tuple(self._branch(request, k, ids) for k, ids in enumerate(contexts)))
        self.groups.add(group)
        self.metrics.add("branches", len(contexts))
        # A branch that ran while the grammar is still being compiled would hold a place and wait.
        if self._is_blocked_waiting_status(request.status):
            self._parked[group] = None
        else:
            self._queue_branches(group)

    def _contexts(self, request: Request, plan: Plan) -> list[list[int]]:
        """Each further branch's token ids."""
        prompt_ids = request.prompt_token_ids
        if request.resumable or request.mm_features or request.prompt_embeds is not None or not prompt_ids:
            raise UnsupportedError(ONLY_TOKENS)
        if self._tokenizer is None and any(isinstance(context, str) for context in plan.contexts):
            from vllm.tokenizers import cached_tokenizer_from_config

            self._tokenizer = cached_tokenizer_from_config(self.vllm_config.model_config)
        vocabulary = Vocabulary.of(self.vllm_config.model_config, self._tokenizer)
        return branch_ids(plan, prompt_ids, request.request_id, vocabulary)

    def _branch(self, request: Request, number: int, ids: list[int]) -> Request:
        """A hidden request: greedy and endless, since its tokens are given to it and its owner ends it."""
        params = SamplingParams(temperature=0.0, max_tokens=self.max_model_len, ignore_eos=True, detokenize=False)
        params.skip_reading_prefix_cache = request.sampling_params.skip_reading_prefix_cache
        return Request(
            branch_id(request.request_id, number),
            ids,
            params,
            None,
            client_index=request.client_index,
            arrival_time=request.arrival_time,
            lora_request=request.lora_request,
            cache_salt=request.cache_salt,
            priority=request.priority,
            block_hasher=request._block_hasher,
        )

    def _queue_branches(self, group: Group) -> None:
        for branch in group.branches:
            super().add_request(branch)
            self.metrics.add("branch_tokens", branch.num_prompt_tokens)

    def _gather(self, group: Group) -> None:
        """Bring the waiting members of a group together, at the place of the first of them."""
        members = [self.requests[member] for member in group.members]
        waiting = [member for member in members if member.status != RequestStatus.RUNNING]
        place = min(self.waiting.index(member) for member in waiting)
        self.waiting.remove_requests(waiting)
        for offset, member in enumerate(waiting):
            self.waiting.insert(place + offset, member)

    # A step

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        self._end_refused()
        if self._pause_state == PauseState.PAUSED_NEW:
            running = self._groups_of(request.request_id for request in self.running)
            self._broken.update((group, None) for group in running if not all(map(self._runs, group.members)))
        self._yield_broken()
        for group in list(self._parked):
            if super()._handle_blocked_waiting_request(self.requests[group.owner]):
                del self._parked[group]
                self._queue_branches(group)
                self._gather(group)
        return super().schedule(throttle_prefills)

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        group = self.groups.of(request.request_id)
        if group in self._parked:
            return False  # It goes in with its branches, at the start of a step.
        return super()._handle_blocked_waiting_request(request)

    def _runs(self, request_id: str) -> bool:
        request = self.requests.get(request_id)
        return request is not None and request.status == RequestStatus.RUNNING

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        group = self.groups.of(request.request_id)
        if group is not None:
            self._broken[group] = None
        super()._preempt_request(request, *args, **kwargs)

    def _yield_broken(self) -> None:
        """Whoever lost a branch's memory in the last step gives up the rest of it, and waits in one piece."""
        for group in self._broken:
            for member in reversed(group.members):
                if self._runs(member):
                    request = self.requests[member]
                    self.running.remove(request)
                    super()._preempt_request(request, time.monotonic())
            self._gather(group)
            self.metrics.add("preempted_groups")
        self._broken.clear()

    # After a step

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        self._hold_incomplete(scheduler_output, model_runner_output)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for client in outputs.values():
            client.outputs = [output for output in client.outputs if owner_of(output.request_id) is None]
            if client.finished_requests:
                client.finished_requests = {name for name in client.finished_requests if owner_of(name) is None}
        for client_index, error in self._errors:
            outputs.setdefault(client_index, EngineCoreOutputs()).outputs.append(error)
        self._errors.clear()
        self._watch(any(output.new_token_ids for client in outputs.values() for output in client.outputs))
        return outputs

    def _hold_incomplete(self, scheduled: SchedulerOutput, result: ModelRunnerOutput) -> None:
        """Tokens of groups that were not there as a whole are forgotten; their last positions are redone."""
        tokens, index = result.sampled_token_ids, result.req_id_to_index
        for group in self._groups_of(scheduled.num_scheduled_tokens):
            there = [member for member in group.members if member in scheduled.num_scheduled_tokens]
            given = [tokens[index[member]] for member in there if tokens and tokens[index[member]]]
            if len(given) == len(group.members):
                if any(given[0] != other for other in given):
                    raise Failure(f"branches of {group.owner} were given different tokens: {given}")
                group.held_steps = 0
                self.metrics.add("guided_tokens", len(given[0]))
                self.metrics.add("branch_tokens", sum(map(len, given[1:])))
                continue
            held = [member for member in there if not self.requests[member].is_prefill_chunk]
            for member in held:
                self.requests[member].num_computed_tokens -= 1
                if tokens:
                    tokens[index[member]] = []
            if held:
                self._note_held(group)

    def _note_held(self, group: Group) -> None:
        if not group.held_steps:
            group.held_since = time.monotonic()
        group.held_steps += 1
        self.metrics.add("held_steps")

    def _groups_of(self, request_ids: Iterable[str]) -> list[Group]:
        return list(dict.fromkeys(group for name in request_ids if (group := self.groups.of(name)) is not None))

    def _watch(self, moved: bool) -> None:
        running = self._groups_of(request.request_id for request in self.running)
        if moved:
            self.watchdog.reset()
        if not moved and self.watchdog.stalled(self.requests.values()):
            stalled = running or [group for group in self.groups if group not in self._parked][:1]
            self.watchdog.reset()
        else:
            whole = [group for group in running if group.held_steps and all(map(self._runs, group.members))]
            stalled = [group for group in whole if self.watchdog.late(group.held_steps, group.held_since)]
        for group in stalled:
            self.metrics.add("stalls")
            logger.error("counterpoint: a guided request does not move; it is failed. State: %s", self.state(group))
            self._refuse(group.owner, "it did not move for too long; the server's log has the state")

    # The end

    def _refuse(self, request_id: str, reason: str, *, code: str = "internal_error") -> None:
        self._refused[request_id] = code, reason

    def _end_refused(self) -> None:
        """End refused requests before they can run, so that nothing unguided leaves; the next outputs say why."""
        for request_id, (code, reason) in self._refused.items():
            for request in self.finish_requests(request_id, RequestStatus.FINISHED_ERROR):
                output = EngineCoreOutput(
                    request_id=request_id,
                    new_token_ids=[],
                    finish_reason=FinishReason.ERROR,
                    stop_reason=reason,
                    events=request.take_events(),
                    trace_headers=request.trace_headers,
                    # 0.33.0 hands it to the client, with HTTP 400 for a "validation_error"; before, the log alone has it.
                    **({"error": RequestError(code, reason)} if ERRORS_ARE_TOLD else {}),
                )
                self._errors.append((request.client_index, output))
                logger.warning("counterpoint: request %s is refused: %s", request_id, reason)
        self._refused.clear()

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus) -> list[Request]:
        names = list(self.requests) if request_ids is None else request_ids
        names = [names] if isinstance(names, str) else list(names)
        for group in self._groups_of(names):
            self._forget(group)
            names.extend(group.members)
        finished = super().finish_requests(names, finished_status)
        return [request for request in finished if owner_of(request.request_id) is None]

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        freed = super()._free_request(request, *args, **kwargs)
        group = self.groups.of(request.request_id)
        if group is not None and request.request_id == group.owner:
            self._forget(group)
            super().finish_requests(group.members[1:], RequestStatus.FINISHED_ABORTED)
        elif group is not None:
            # Harmless if the request itself ends in this step, as at the end of the context.
            self._refuse(group.owner, "a branch ended before its request")
        return freed

    def _forget(self, group: Group) -> None:
        self.groups.drop(group)
        self._broken.pop(group, None)
        self._parked.pop(group, None)

    def state(self, group: Group) -> dict[str, Any]:
        """What is needed to understand why a group does not move."""
        requests = [(member, self.requests.get(member)) for member in group.members]
        return {
            "members": {
                member: {
                    "status": request.status.name,
                    "tokens": request.num_tokens,
                    "computed": request.num_computed_tokens,
                    "preemptions": request.num_preemptions,
                }
                if request is not None
                else "gone"
                for member, request in requests
            },
            "parked": group in self._parked,
            "held_steps": group.held_steps,
            "running": [request.request_id for request in self.running],
            "waiting": [request.request_id for request in self.waiting],
            "free_blocks": self.kv_cache_manager.block_pool.get_num_free_blocks(),
            "step": self.current_step,
        }
