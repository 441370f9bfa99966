"""Products against those in double precision."""

import platform
from itertools import product as combinations

import pytest
import torch

from sklearn_clidmu.mathematics import products
from sklearn_clidmu.mathematics.products import WORTHWHILE, affine, product

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
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=[SMALL, LARGE], ids=["small", "large"])
def shape(request):
    return request.param


def close(found, expected, dtype):
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e4 * torch.finfo(dtype).eps)


def test_the_sizes_lie_on_both_sides_of_what_is_worthwhile():
    assert torch.tensor(SMALL).prod() < WORTHWHILE < torch.tensor(LARGE).prod()


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


def test_product_of_a_matrix_with_its_transpose(dtype):
    A, _ = matrices(LARGE, dtype)
    close(product(A, A.T), A.double() @ A.double().T, dtype)


@pytest.fixture
def looked_up():
    """What is remembered of the processor is looked up anew, before and after."""
    products._onednn.cache_clear()
    yield
    products._onednn.cache_clear()


@pytest.fixture
def without_onednn(monkeypatch, request, looked_up):
    """Machines without oneDNN, or with another that it seems to be."""
    if request.param == "switched off":
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    elif request.param == "another processor":
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    elif request.param == "missing":
        monkeypatch.setattr(products, "ONEDNN", "sklearn_clidmu_knows_no_such_operator")
    else:
        assert request.param == "changed"
        monkeypatch.setattr(products, "ONEDNN", "_is_mkldnn_acl_supported")


WITHOUT = ["switched off", "another processor", "missing", "changed"]


@pytest.mark.parametrize("without_onednn", WITHOUT, indirect=True)
def test_without_onednn_products_are_torchs_own(without_onednn):
    A, B = matrices(LARGE, torch.float32)
    bias = torch.randn(B.shape[1], dtype=A.dtype)
    assert torch.equal(product(A, B), A @ B)
    assert torch.equal(affine(A, B.T, bias), torch.addmm(bias, A, B))


def test_what_cannot_be_multiplied_is_refused_at_any_size():
    for n in (3, 300):
        with pytest.raises(RuntimeError):
            product(torch.ones(n, n), torch.ones(n + 1, n))
