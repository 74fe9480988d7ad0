"""The parts of a trace: kernels by name, by launcher, and behind one another."""

from types import SimpleNamespace
from typing import Any

import pytest

from tresse.engine.profiling.attribution import BACKWARD, part_times
from tresse.engine.profiling.labels import PREFIX


def operator(
    name: str,
    parent: Any = None,
    sequence_nr: int = -1,
    kernels: Any = (),
    self_us: float = 0.0,
    thread: int = 1,
    fwd_thread: int = 0,
) -> Any:
    """An operator of a trace, and the kernels it launched as (name, microseconds)."""
    return SimpleNamespace(
        name=name,
        device_type=SimpleNamespace(name="CPU"),
        cpu_parent=parent,
        thread=thread,
        fwd_thread=fwd_thread,
        sequence_nr=sequence_nr,
        self_cpu_time_total=self_us,
        kernels=[SimpleNamespace(name=kernel, duration=us) for kernel, us in kernels],
    )


def kernel(name: str, start: float, stop: float, is_user_annotation: bool = False) -> Any:
    """A kernel between two microseconds, or a range around kernels."""
    span = SimpleNamespace(start=start, end=stop, elapsed_us=lambda: stop - start)
    return SimpleNamespace(
        name=name,
        device_type=SimpleNamespace(name="CUDA"),
        time_range=span,
        is_user_annotation=is_user_annotation,
    )


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "matmul"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matmul"),
        ("void cutlass::device_kernel<flash_attn_fwd_sm90>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob", "attention"),
        ("_attention_key_kernel", "attention"),
        ("_rmsnorm_backward_kernel", "norm"),
        ("_swiglu_forward_kernel", "swiglu"),
        ("_rope_kernel", "rope"),
        ("_cross_entropy_held_kernel", "loss"),
        ("_adamw_kernel", "optimizer"),
        ("ncclDevKernel_Reduce_Sum_f32_RING_LL", "communication"),
        ("Memcpy HtoD (Pinned -> Device)", "packing"),
        ("void at::native::vectorized_gather_kernel<16, long>", "other"),
    ],
)
def test_a_kernel_belongs_to_the_part_of_its_name(name: str, part: str) -> None:
    times = part_times([kernel(name, 0, 5)])
    assert {key: value for key, value in times.parts.items() if value} == {
        part: pytest.approx(5e-6)
    }


def test_a_kernel_without_a_name_of_ours_belongs_to_the_operator_that_launched_it() -> None:
    plain = "void at::native::vectorized_elementwise_kernel<4>"
    label = operator(PREFIX + "optimizer")
    inside = operator("aten::add_", label, kernels=[(plain, 3.0)])
    backward = operator(f"{BACKWARD}: torch::autograd::AccumulateGrad")
    accumulated = operator("aten::copy_", backward, kernels=[(plain, 6.0)])
    elsewhere = operator("aten::fill_", kernels=[(plain, 1.0)])
    trace = [label, inside, backward, accumulated, elsewhere]
    times = part_times([*trace, kernel(plain, 0, 3), kernel(plain, 10, 16), kernel(plain, 20, 21)])
    assert times.parts["optimizer"] == pytest.approx(9e-6)
    assert times.parts["other"] == pytest.approx(1e-6)


def test_an_operator_of_the_backward_pass_has_the_part_of_its_forward_operator() -> None:
    label = operator(PREFIX + "norm")
    forward = operator("aten::mul", label, sequence_nr=7, self_us=2)
    other = operator(PREFIX + "rope")  # another thread has numbers of its own
    elsewhere = operator("aten::mul", other, sequence_nr=7, thread=2)
    node = operator(f"{BACKWARD}: MulBackward0", sequence_nr=7, self_us=1, fwd_thread=1)
    backward = operator("aten::mul", node, self_us=4)
    product = operator("aten::mm", node, self_us=8)
    times = part_times([label, forward, other, elsewhere, node, backward, product])
    assert times.parts["norm"] == pytest.approx(7e-6)
    assert times.parts["matmul"] == pytest.approx(8e-6)
    assert times.busy == pytest.approx(15e-6)


def test_the_products_of_an_attention_are_its_own() -> None:
    label = operator(PREFIX + "attention")
    assert part_times([operator("aten::bmm", label, self_us=2)]).parts == {
        "attention": pytest.approx(2e-6)
    }


def test_ranges_on_the_gpu_are_no_kernels() -> None:
    trace = [
        kernel(PREFIX + "norm", 0, 100, is_user_annotation=True),
        kernel("nccl:all_reduce", 0, 100, is_user_annotation=True),
        kernel("_rmsnorm_forward_kernel", 0, 10),
        kernel("_rmsnorm_forward_kernel", 90, 100),
    ]
    times = part_times(trace)
    assert {key: value for key, value in times.parts.items() if value} == {
        "norm": pytest.approx(20e-6)
    }
    assert times.busy == pytest.approx(20e-6)


def test_communication_counts_where_nothing_else_runs() -> None:
    trace = [
        kernel("ncclDevKernel_Reduce", 0, 10),
        kernel("nvjet", 2, 8),
        kernel("nvjet", 20, 24),
        kernel("ncclDevKernel_AllGather", 23, 25),
    ]
    times = part_times(trace)
    assert times.parts["communication"] == pytest.approx(5e-6)  # 0-2, 8-10 and 24-25
    assert times.hidden_communication == pytest.approx(7e-6)
    assert times.parts["matmul"] == pytest.approx(10e-6)
    assert times.busy == pytest.approx(15e-6)
