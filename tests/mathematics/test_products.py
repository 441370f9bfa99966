"""Products against those in double precision."""

import platform
from itertools import product as combinations
from types import SimpleNamespace

import pytest
import torch

from sklearn_clidmu.mathematics import products
from sklearn_clidmu.mathematics.products import WORTHWHILE, affine, amd_family, product, worthwhile

SMALL, LARGE = (7, 5, 3), (130, 150, 170)
LAYOUTS = list(combinations([False, True], repeat=2))


def matrices(shape, dtype, transposed=(False, False)):
    m, k, n = shape
    A, B = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
    return [
        M.T.contiguous().T if transpose else M
        for M, transpose in zip((A, B), transposed, strict=True)
    ]


@pytest.fixture(autouse=True)
def looked_up(monkeypatch):
    """As on a processor of AMD's; what is remembered of it is looked up anew, before and after."""
    monkeypatch.setattr(products, "amd_family", lambda: 26)
    remembered = products._onednn, products.worthwhile
    for lookup in remembered:
        lookup.cache_clear()
    yield
    for lookup in remembered:
        lookup.cache_clear()


@pytest.fixture(params=[SMALL, LARGE], ids=["small", "large"])
def shape(request):
    return request.param


def close(found, expected, dtype):
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e4 * torch.finfo(dtype).eps)


def test_the_sizes_lie_on_both_sides_of_what_is_worthwhile():
    assert torch.tensor(SMALL).prod() < WORTHWHILE[1] < torch.tensor(LARGE).prod()


@pytest.mark.parametrize("transposed", LAYOUTS, ids=str)
def test_product_is_that_of_matrices_in_any_layout(shape, dtype, transposed):
    A, B = matrices(shape, dtype, transposed)
    close(product(A, B), A.double() @ B.double(), dtype)


@pytest.mark.parametrize("transposed", LAYOUTS, ids=str)
def test_affine_map_is_that_of_a_linear_layer_in_any_layout(shape, dtype, transposed):
    X, weight = matrices(shape, dtype, transposed)
    bias = torch.randn(shape[2], dtype=dtype)
    expected = torch.nn.functional.linear(X.double(), weight.T.double(), bias.double())
    close(affine(X, weight.T, bias), expected, dtype)


def test_product_with_parts_of_larger_matrices(dtype):
    A, B = matrices((200, 300, 250), dtype)
    A, B = A[10:190, 20:280], B[20:280, ::2]
    close(product(A, B), A.double() @ B.double(), dtype)


@pytest.mark.parametrize("transposed", LAYOUTS, ids=str)
def test_product_of_stacks_is_that_of_each_two_matrices(shape, dtype, transposed):
    pairs = [matrices(shape, dtype, transposed) for _ in range(3)]
    A, B = (torch.stack(matrices) for matrices in zip(*pairs, strict=True))
    close(product(A, B), torch.stack([A.double() @ B.double() for A, B in pairs]), dtype)
    mirrored = product(B.mT, A.mT)
    close(mirrored, torch.stack([B.double().T @ A.double().T for A, B in pairs]), dtype)


def test_onednn_is_not_given_matrices_with_gaps(monkeypatch):
    # With some of them it takes a thousand times as long.
    A, B = matrices((200, 300, 250), torch.float32)
    monkeypatch.setattr(products, "_onednn", lambda: pytest.fail)
    assert torch.equal(product(A[:, 20:280], B[20:280]), A[:, 20:280] @ B[20:280])
    assert torch.equal(product(A[:, :250], B[:250, ::2]), A[:, :250] @ B[:250, ::2])


def test_product_of_a_matrix_with_its_transpose(dtype):
    A, _ = matrices(LARGE, dtype)
    close(product(A, A.T), A.double() @ A.double().T, dtype)


def no_such_operator(monkeypatch):
    monkeypatch.setattr(products, "ONEDNN", "sklearn_clidmu_knows_no_such_operator")


def other_arguments(monkeypatch):
    monkeypatch.setattr(products, "ONEDNN", "_is_mkldnn_acl_supported")


def another_meaning(monkeypatch):
    wrong = SimpleNamespace(default=lambda X, weight, *_: X.new_zeros(len(X), len(weight)))
    monkeypatch.setattr(torch.ops.mkldnn, "wrong", wrong, raising=False)
    monkeypatch.setattr(products, "ONEDNN", "wrong")


def check_products_are_torchs_own():
    A, B = matrices(LARGE, torch.float32)
    bias = torch.randn(B.shape[1], dtype=A.dtype)
    assert torch.equal(product(A, B), A @ B)
    assert torch.equal(affine(A, B.T, bias), torch.addmm(bias, A, B))


@pytest.mark.parametrize("machine", [no_such_operator, other_arguments, another_meaning])
def test_where_onednn_cannot_be_had_products_are_torchs_own(machine, monkeypatch):
    machine(monkeypatch)
    assert products._onednn() is None
    check_products_are_torchs_own()


@pytest.mark.parametrize(
    ("family", "expected"), [(25, 2**24), (26, 2**21), (27, 2**21), (None, float("inf"))]
)
def test_small_products_are_onednns_from_zen_5_on_alone(family, expected, monkeypatch):
    monkeypatch.setattr(products, "amd_family", lambda: family)
    assert worthwhile() == expected
    if family not in (26, 27):
        monkeypatch.setattr(products, "_onednn", None)  # which is not asked
        check_products_are_torchs_own()


def on_linux(vendor, tmp_path, monkeypatch):
    said = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: 25\nmodel\t\t: 17\n"
    (tmp_path / "cpuinfo").write_text(said)
    monkeypatch.setattr(products, "CPU_INFO", tmp_path / "cpuinfo")


def on_windows(vendor, tmp_path, monkeypatch):
    monkeypatch.setattr(products, "CPU_INFO", tmp_path / "missing")
    name = f"AMD64 Family 25 Model 1 Stepping 1, {vendor}"
    monkeypatch.setattr(platform, "processor", lambda: name)


@pytest.mark.parametrize("system", [on_linux, on_windows])
@pytest.mark.parametrize(("vendor", "expected"), [("AuthenticAMD", 25), ("GenuineIntel", None)])
def test_the_processor_says_which_of_amds_it_is(system, vendor, expected, tmp_path, monkeypatch):
    system(vendor, tmp_path, monkeypatch)
    assert amd_family() == expected


def test_a_processor_that_says_nothing_is_not_amds(tmp_path, monkeypatch):
    monkeypatch.setattr(products, "CPU_INFO", tmp_path / "missing")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert amd_family() is None


def test_onednn_is_not_asked_where_it_has_been_switched_off(monkeypatch):
    def refuse():
        raise AssertionError("asked")

    monkeypatch.setattr(products, "_onednn", refuse)
    with pytest.raises(AssertionError, match="asked"):
        check_products_are_torchs_own()
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    check_products_are_torchs_own()


def test_what_cannot_be_multiplied_is_refused_at_any_size():
    for n in (3, 300):
        with pytest.raises(RuntimeError):
            product(torch.ones(n, n), torch.ones(n + 1, n))
