"""The student's forward, its loss against a loop by hand, and what it leaves behind."""

import copy

import pytest
import torch
from conformance.architectures import ARCHITECTURES

import counterpoint as cp
from counterpoint.contexts import ReadBranch
from counterpoint.distillation.answers import Example
from counterpoint.distillation.config import Adapter, Training, Writing
from counterpoint.distillation.reading import Reading
from counterpoint.distillation.student import Student
from counterpoint.distillation.targets import target_of
from counterpoint.distillation.training import Lessons, _step, order_of
from counterpoint.errors import UnsupportedError, UsageError
from counterpoint.models.adapters import AdapterSwitch

pytest.importorskip("peft")

GUIDE = cp.Guide()


def fresh(name):
    """A model of its own: others share the one that is kept."""
    return copy.deepcopy(ARCHITECTURES[name].model())


def example(student, prompt, negative, answer, **more):
    return Example(Reading(student, prompt, (ReadBranch(negative, -1.0),), GUIDE), answer, **more)


EXAMPLES = [
    example((5, 6, 7), (5, 6, 7), (9, 3), (11, 12, 13, 14)),
    example((8, 9), (8, 9, 10, 11, 12), (4,), (20,)),
    example((7, 7, 7, 7, 7, 7), (7, 7), (3, 2, 3), (31, 32, 33, 34, 35, 36, 37)),
]


def stirred(hf):
    """A student whose adapter does something."""
    modules = ("in_proj", "x_proj") if hf.config.model_type == "mamba" else "all-linear"
    student = Student(cp.Model(hf, compile=False), Adapter(4, modules=modules), seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(student.parameters.values()):
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(number))
    return student


def log_softmax_of(hf, ids):
    return hf(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "bloom"])
def test_rows_of_many_lengths_predict_what_each_does_alone(name):
    hf = fresh(name)
    student = stirred(hf)
    found = list(student.logprobs([(one.reading.student_ids, one.answer_ids) for one in EXAMPLES]))
    with torch.no_grad():
        for one, logprobs in zip(EXAMPLES, found):
            context, answer = one.reading.student_ids, one.answer_ids
            want = log_softmax_of(hf, [*context, *answer])[len(context) - 1 : -1]
            assert torch.allclose(logprobs, want, atol=2e-4), name
    student.close()


@pytest.mark.parametrize("top", [0, 64])
def test_a_steps_loss_and_gradient_are_those_of_a_loop_by_hand(top):
    """Only the answers' tokens count: sum of KL(guided || student) over them, by their number."""
    hf = fresh("llama")
    student = stirred(hf)
    teacher = cp.Model(hf, compile=False)
    lessons = Lessons(teacher, EXAMPLES, Training(top=top, together=2), off=AdapterSwitch(hf, None))
    found = _step(student, lessons, [2, 0, 1], Training(top=top, together=2))
    grads = {name: p.grad.clone() for name, p in student.parameters.items()}
    total, count = torch.zeros(()), 0
    for p in student.parameters.values():
        p.grad = None
    for one in EXAMPLES:
        reading, answer = one.reading, list(one.answer_ids)
        with torch.no_grad(), AdapterSwitch(hf, None)():
            cond = log_softmax_of(hf, [*reading.prompt_ids, *answer])[len(reading.prompt_ids) - 1 : -1]
            negative = reading.branches[0].ids
            other = log_softmax_of(hf, [*negative, *answer])[len(negative) - 1 : -1]
        guided = (2 * cond - other).log_softmax(-1)
        own = log_softmax_of(hf, [*reading.student_ids, *answer])[len(reading.student_ids) - 1 : -1]
        if top:  # the bucket of all other tokens
            best = guided.topk(top).indices
            parts = [torch.stack([x[i, best[i]] for i in range(len(x))]) for x in (guided, own)]
            rest = [(1 - part.exp().sum(-1)).clamp_min(1e-30).log() for part in parts]
            guided, own = (torch.cat([part, r[:, None]], -1) for part, r in zip(parts, rest))
        total = total + (guided.exp() * (guided - own)).sum()
        count += len(answer)
    (total / count).backward()
    assert found == pytest.approx(total.item() / count, rel=1e-4)
    for name, p in student.parameters.items():
        assert torch.allclose(grads[name], p.grad, atol=3e-4), name
    student.close()


def test_a_branch_of_the_same_weights_in_another_state_is_read_without_what_learns():
    """A vector is on in one branch; the adapter, which has the same weights below it, is off in all of them."""
    hf = fresh("llama")
    model = cp.Model(hf, compile=False)
    steered = model.with_vector(cp.Vector({1: torch.full((32,), 0.3)}), 1.0)
    one = Example(Reading((5, 6), (5, 6), (ReadBranch((9, 3), -1.0, model=steered),), GUIDE), (11, 12, 13))
    want = target_of(model, one, top=0).logprobs
    student = stirred(hf)
    lessons = Lessons(model, [one], Training(top=0), off=AdapterSwitch(hf, None))
    assert torch.equal(lessons.target(0).logprobs, want)
    assert not torch.allclose(target_of(model, one, top=0).logprobs, want, atol=0.01)  # with the adapter left on
    student.close()


def test_samples_are_learnt_token_by_token_and_texts_to_keep_by_what_was_predicted():
    hf = fresh("llama")
    student = Student(cp.Model(hf, compile=False), Adapter(4), seed=0)
    kept = Example(Reading((1,), (1,), (), cp.Guide(scale=1.0)), (40, 41, 42), is_kept=True)
    teacher, off = cp.Model(hf, compile=False), AdapterSwitch(hf, None)
    lessons = Lessons(teacher, [EXAMPLES[0], kept], Training("samples"), off=off)
    learnt, same = lessons.losses(student, [0, 1])
    with torch.no_grad():
        own = log_softmax_of(hf, [5, 6, 7, 11, 12, 13, 14])[2:-1]
    want = -own[range(4), [11, 12, 13, 14]]
    assert torch.allclose(learnt, want, atol=1e-4)
    assert same.abs().max() < 1e-5  # an adapter that adds nothing yet has nothing to unlearn
    student.close()


def test_a_weight_counts_a_token_more():
    hf = fresh("llama")
    student = stirred(hf)
    teacher = cp.Model(hf, compile=False)
    heavy = example((5, 6, 7), (5, 6, 7), (9, 3), (11, 12, 13, 14), weight=3.0)
    lessons = Lessons(teacher, [heavy, EXAMPLES[1]], Training(), off=AdapterSwitch(hf, None))
    losses = [one.sum().item() for one in lessons.losses(student, [0, 1])]
    found = _step(student, lessons, [0, 1], Training())
    assert found == pytest.approx((3 * losses[0] + losses[1]) / (3 * 4 + 1), rel=1e-4)
    student.close()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_closing_leaves_the_model_as_it_was(name):
    hf = fresh(name)
    next(iter(hf.parameters())).requires_grad_(False)
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in hf.named_parameters()}
    modules = [(name, id(module)) for name, module in hf.named_modules()]
    student = stirred(hf)
    loss = next(student.logprobs([((5, 6), (7, 8))])).sum()
    loss.backward()
    student.close()
    assert [(name, id(module)) for name, module in hf.named_modules()] == modules
    after = {name: (p.requires_grad, p.detach()) for name, p in hf.named_parameters()}
    assert before.keys() == after.keys() and not hasattr(hf, "peft_config")
    assert all(before[n][0] == after[n][0] and torch.equal(before[n][1], after[n][1]) for n in before)
    assert all(p.grad is None for p in hf.parameters())


def test_dropout_is_the_adapters_alone():
    hf = fresh("gpt2")  # has dropout of its own
    student = Student(cp.Model(hf, compile=False), Adapter(4, dropout=0.5), seed=0)
    training = {name for name, module in hf.named_modules() if module.training}
    assert training and all("lora_dropout" in name for name in training)
    student.close()
    assert not any(module.training for module in hf.modules())


def test_the_same_seed_begins_with_the_same_adapter_and_leaves_the_callers_random_numbers():
    hf = fresh("llama")
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(7)
        student = Student(cp.Model(hf, compile=False), Adapter(4), seed=seed)
        assert torch.initial_seed() == 7 and torch.rand(1).item() == pytest.approx(0.5349, abs=1e-3)
        states.append(student.state())
        student.close()
    first, same, other = (torch.cat([value.flatten() for value in state.values()]) for state in states)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_every_epoch_reads_all_in_another_order():
    steps = order_of(10, Training(epochs=3, batch=4), seed=0)
    assert [len(step) for step in steps] == [4, 4, 2] * 3
    epochs = [sum(steps[at : at + 3], []) for at in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and epochs[0] != epochs[1]
    assert order_of(10, Training(epochs=3, batch=4), seed=0) == steps


def test_models_and_layers_that_are_refused():
    hf = fresh("llama")
    with pytest.raises(
        UsageError, match="'query', and LlamaForCausalLM has no linear layer of that name; it has down_proj"
    ):
        Student(cp.Model(hf), Adapter(modules=("q_proj", "query")), seed=0)
    assert not hasattr(hf, "peft_config")
    student = Student(cp.Model(hf, compile=False), Adapter(4, modules=("q_proj",)), seed=0)
    assert all("q_proj" in name for name in student.parameters)
    with pytest.raises(UnsupportedError, match="has the adapter distilled already"):
        Student(cp.Model(hf), Adapter(), seed=0)
    student.close()
    mamba = fresh("mamba")
    with pytest.raises(
        UnsupportedError, match="peft can't put an adapter on MambaForCausalLM: .*out_proj.*; name other layers"
    ):
        Student(cp.Model(mamba), Adapter(), seed=0)
    assert not hasattr(mamba, "peft_config") and all(p.requires_grad for p in mamba.parameters())
    from counterpoint.models.int8 import Int8Linear

    hf.set_submodule("model.layers.0.mlp.up_proj", Int8Linear(hf.model.layers[0].mlp.up_proj.weight, None))
    with pytest.raises(UnsupportedError, match="kept in 8 or 4 bits; load it without weights="):
        Student(cp.Model(hf, compile=False), Adapter(), seed=0)


@pytest.mark.parametrize(
    "kind, values, said",
    [
        (Adapter, {"rank": 0}, "rank is 0; use a whole number, 1 or more"),
        (Adapter, {"alpha": 0}, "alpha is 0; use a number above 0"),
        (Adapter, {"modules": ()}, r"modules is \(\); give names"),
        (Training, {"target": "tokens"}, "target is 'tokens'; use one of distribution, samples"),
        (Training, {"rate": float("nan")}, "rate is nan"),
        (Writing, {"sampling": {"n": 2}}, "sampling has 'n'"),
        (Writing, {"held_out": 1}, "held_out is 1, which leaves nothing"),
        (Writing, {"candidates": 4, "sampling": {"temperature": 0}}, "all would be the same; use a temperature"),
        (Training, {"warmup": 2}, "warmup is 2; use a number 0 or more, 1 at most"),
    ],
)
def test_values_out_of_their_range(kind, values, said):
    with pytest.raises(UsageError, match=said):
        kind(**values)
