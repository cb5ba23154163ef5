"""A control vector as a value, in files, and from pairs of texts."""

import gguf
import numpy as np
import pytest
import torch
from conformance.architectures import ARCHITECTURES
from safetensors.torch import save_file

import counterpoint as cp
from counterpoint.errors import UsageError
from counterpoint.vectors.fit import read_pairs, states_of_pairs
from counterpoint.vectors.principal import principal_directions

PAIRS = [([5, 9, 17], [5, 9, 40]), ([7, 31, 17], [7, 31, 40]), ([66, 17], [66, 40]), ([80, 2, 3, 17], [80, 2, 3, 40])]


@pytest.fixture(scope="module")
def llama():
    return cp.Model(ARCHITECTURES["llama"].model(), compile=False)


@pytest.fixture
def vector():
    source = torch.Generator().manual_seed(1)
    return cp.Vector({n: torch.randn(32, generator=source) for n in (1, 2, 5)}, "llama", {"method": "mean"})


def close_spectrum(source):
    """Samples whose singular values lie close together, on directions that are no axes."""
    left, _ = torch.linalg.qr(torch.randn(24, 24, generator=source, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(40, 24, generator=source, dtype=torch.float64))
    return left @ torch.diag(torch.linspace(1.0, 0.5, 24, dtype=torch.float64)) @ right.T


@pytest.mark.parametrize("kind", ["far", "close"])
def test_power_iteration_agrees_with_the_singular_value_decomposition(kind):
    source = torch.Generator().manual_seed(0)
    samples = torch.randn(24, 40, generator=source, dtype=torch.float64) if kind == "far" else close_spectrum(source)
    found, shares = principal_directions(samples, 8)
    _, values, directions = torch.linalg.svd(samples, full_matrices=False)
    assert ((found * directions[:8]).sum(-1).abs() > 1 - 1e-6).all()
    assert torch.allclose(shares, values[:8] ** 2 / (values**2).sum(), atol=1e-8)
    assert torch.allclose(found @ found.T, torch.eye(8, dtype=torch.float64), atol=1e-9)
    assert (found @ samples.mean(0) >= 0).all()


def test_directions_past_the_rank_are_none():
    samples = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 30)
    found, shares = principal_directions(samples, 5)
    assert len(found) == 2 and abs(float(shares.sum()) - 1) < 1e-6
    assert len(principal_directions(torch.zeros(3, 8), 2)[0]) == 0


def test_the_mean_is_the_mean_of_the_last_states(llama):
    got = cp.Vector.fit(llama, PAIRS, layers=[0, 1])
    states = [
        [llama.hf.model(torch.tensor([ids]), output_hidden_states=True).hidden_states for ids in side]
        for side in zip(*PAIRS)
    ]
    # hidden_states has the embeddings before layer 0, and the norm's output instead of the last layer's
    want = torch.stack([a[1][0, -1] - b[1][0, -1] for a, b in zip(*states)]).mean(0)
    assert torch.allclose(got.directions[0], want, atol=1e-5)
    assert list(got.directions) == [0, 1] and got.model_type == "llama" and got.about["pairs"] == "4"
    assert len(cp.Vector.fit(llama, PAIRS).directions) == 1


def test_pca_lies_along_the_first_directions_and_with_all_of_them_is_the_mean(llama):
    from counterpoint.vectors.fit import read_pairs, states_of_pairs

    pairs = read_pairs(llama, PAIRS)
    both = states_of_pairs(llama, pairs, [1])[1].double()
    differences = both[0] - both[1]
    first = torch.linalg.svd(differences, full_matrices=False)[2][0]
    want = first * (first @ differences.mean(0))
    assert torch.allclose(cp.Vector.fit(llama, PAIRS, method="pca", layers=[1]).directions[1].double(), want, atol=1e-5)
    every = cp.Vector.fit(llama, PAIRS, method="pca", num_directions=4, layers=[1])
    assert torch.allclose(every.directions[1], cp.Vector.fit(llama, PAIRS, layers=[1]).directions[1], atol=1e-5)


def test_a_vector_is_fitted_on_the_model_in_its_state(llama):
    """Under another vector the states differ, and so does what is between them."""
    shift = cp.Vector({0: torch.randn(32, generator=torch.Generator().manual_seed(3))})
    plain, shifted = (cp.Vector.fit(m, PAIRS, layers=[1]) for m in (llama, llama.with_vector(shift, 4.0)))
    assert plain != shifted


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
def test_files_round_trip(vector, tmp_path, ending):
    path = tmp_path / f"vector{ending}"
    vector.save(path)
    again = cp.Vector.load(path)
    assert again == vector and again.model_type == "llama" and list(again.directions) == [1, 2, 5]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if ending == ".safetensors":
        assert again.about == vector.about


def test_a_file_as_repeng_writes_it(tmp_path):
    """Its layout, written with the package gguf alone: any order of layers, no name but the hint."""
    path, source = tmp_path / "theirs.gguf", np.random.default_rng(0)
    made = {layer: source.standard_normal(16, dtype=np.float32) for layer in (3, 1, 2)}
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", len(made))
    for layer, direction in made.items():
        writer.add_tensor(f"direction.{layer}", direction)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    vector = cp.Vector.load(path)
    assert vector.model_type == "mistral" and list(vector.directions) == [1, 2, 3]
    for layer, direction in made.items():
        assert torch.equal(vector.directions[layer], torch.from_numpy(direction))
    vector.save(tmp_path / "ours.gguf")
    ours, theirs = gguf.GGUFReader(tmp_path / "ours.gguf"), gguf.GGUFReader(path)
    for name in ("general.architecture", "controlvector.model_hint", "controlvector.layer_count"):
        field, other = ours.get_field(name), theirs.get_field(name)
        assert field.types == other.types and field.contents() == other.contents()
    assert {t.name: t.data.tolist() for t in ours.tensors} == {t.name: t.data.tolist() for t in theirs.tensors}
    assert all(t.tensor_type == gguf.GGMLQuantizationType.F32 for t in ours.tensors)


def test_vectors_add_up(vector):
    other = cp.Vector({2: torch.ones(32), 3: torch.ones(32)})
    both = vector + 2 * other
    assert list(both.directions) == [1, 2, 3, 5]
    assert torch.equal(both.directions[2], vector.directions[2] + 2)
    assert torch.equal((-vector).directions[1], -vector.directions[1]) and (vector - vector).width == 32
    assert list(vector.only([2]).directions) == [2]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: cp.Vector({}), "no direction"),
        (lambda: cp.Vector({-1: torch.ones(3)}), "layer -1"),
        (lambda: cp.Vector({1: torch.ones(3, 2)}), r"shape \(3, 2\)"),
        (lambda: cp.Vector({1: torch.tensor([1.0, torch.nan])}), "not finite"),
        (lambda: cp.Vector({1: torch.ones(3), 2: torch.ones(4)}), "3 and 4 wide"),
        (lambda: cp.Vector({1: torch.ones(3)}).only([2]), "layer 2 is asked for"),
        (lambda: cp.Vector({1: torch.ones(3)}) + cp.Vector({1: torch.ones(4)}), "one width"),
        (lambda: cp.Vector({1: torch.ones(3)}).save("a.txt"), "ends in .safetensors or .gguf"),
        (lambda: cp.Vector({1: torch.ones(3)}).save("no/such/folder/a.gguf"), "can't be written"),
        (lambda: cp.Vector.load("no-such-file.gguf"), "can't be read"),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_layer_0_is_kept_in_safetensors_and_refused_in_gguf(tmp_path):
    vector = cp.Vector({0: torch.ones(3)})
    vector.save(tmp_path / "a.safetensors")
    assert cp.Vector.load(tmp_path / "a.safetensors") == vector
    with pytest.raises(UsageError, match="layer 0"):
        vector.save(tmp_path / "a.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_files_that_hold_no_vector(tmp_path):
    (tmp_path / "text").write_text("nothing like it")
    save_file({"weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    save_file({"direction.x": torch.ones(2)}, tmp_path / "named.safetensors")
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.add_tensor("direction.1", np.ones(2, dtype=np.float32))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    for name, message in (
        ("text", "no control vector"), ("weights.safetensors", "no tensor direction"),
        ("named.safetensors", "names no layer"), ("llama.gguf", "'llama', not 'controlvector'"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message) as caught:
            cp.Vector.load(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pairs, more, message",
    [
        ([], {}, "0 pairs"),
        (PAIRS[:1], {}, "1 pair is given; a vector needs 2 or more"),
        ([*PAIRS, ("", [3])], {}, "empty"),
        ([*PAIRS, ([3], [3])], {}, "pair 4 are the same"),
        (["ab"], {}, "pair 0"),
        (PAIRS, {"method": "ica"}, "method is 'ica'"),
        (PAIRS, {"method": "pca", "num_directions": 0}, "num_directions is 0"),
        (PAIRS, {"num_directions": 2}, "use 'pca'"),
        (PAIRS, {"layers": [2]}, "layers has 2; the layers of .* are 0 to 1"),
        (PAIRS, {"layers": []}, "layers is empty"),
    ],
)
def test_mistakes_of_a_fit(llama, pairs, more, message):
    with pytest.raises(UsageError, match=message) as caught:
        cp.Vector.fit(llama, pairs, **more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["mean", "pca"])
def test_directions_as_long_as_the_states(llama, method):
    plain = cp.Vector.fit(llama, PAIRS, layers=[0, 1], method=method)
    long = cp.Vector.fit(llama, PAIRS, layers=[0, 1], method=method, length="states")
    for layer, states in states_of_pairs(llama, read_pairs(llama, PAIRS), [0, 1]).items():
        assert float(long.directions[layer].norm()) == pytest.approx(float(states.norm(dim=-1).mean()), rel=1e-5)
        cosine = torch.cosine_similarity(long.directions[layer], plain.directions[layer], dim=0)
        assert float(cosine) == pytest.approx(1.0, abs=1e-5)
    assert long.about["length"] == "states"
    with pytest.raises(UsageError, match="length is 'longer'; use difference or states"):
        cp.Vector.fit(llama, PAIRS, length="longer")
