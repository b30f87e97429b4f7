"""Kernel names that a person can read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzers.gpu.names import SHORT_CHARS, short_name

CASES = {
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, "
    "std::array<char*, 3ul> >(int, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul>)":
        "vectorized_elementwise_kernel<CUDAFunctor_add<float>>",
    "void at::native::elementwise_kernel_manual_unroll<128, 8, at::native::gpu_kernel_impl_nocast"
    "<at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda()#3}::operator()() "
    "const::{lambda(c10::BFloat16)#1}>(at::TensorIteratorBase&, bool&)::{lambda(int)#1}>(int)":
        "elementwise_kernel_manual_unroll<direct_copy_kernel_cuda>",
    "void at::native::reduce_kernel<128, 4, at::native::ReduceOp<float, at::native::func_wrapper_t"
    "<float, at::native::sum_functor<float, float>::operator()(at::TensorIterator&)::"
    "{lambda(float, float)#1}>, unsigned int, float, 4, 8> >(float)":
        "reduce_kernel<sum_functor>",
    "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float>"
    "(int, float, c10::BFloat16 const*)":
        "vectorized_layer_norm_kernel<BFloat16, float>",
    "void cutlass::Kernel<cutlass_80_tensorop_s1688gemm_128x64_16x6_tn_align4>"
    "(cutlass_80_tensorop_s1688gemm_128x64_16x6_tn_align4::Params)":
        "Kernel<cutlass_80_tensorop_s1688gemm_128x64_16x6_tn_align4>",
    "Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV_UserArgs_MT32x32x256_MI16x16x1_SN_LDSB1_AFC1":
        "Cijk_Alik_Bljk_BBS_BH MT32x32x256 MI16x16x1",
    "Cijk_Ailk_Bjlk_BBS_BH_MT32x32x64_MI16x16x16x1_SN_1LDSB0":
        "Cijk_Ailk_Bjlk_BBS_BH MT32x32x64 MI16x16x16",
    "ncclDevKernel_Generic_1(ncclDevKernelArgsStorage<4096ul>)": "ncclDevKernel_Generic_1",
    "triton_poi_fused__to_copy_div_empty_like_zeros_20":
        "triton_poi_fused__to_copy_div_empty_like_zeros_20",
    "_fwd_kernel_0d1d2d3de4c": "_fwd_kernel",
    "_ZN7sgl_hip10activation18act_and_mul_kernelI14__hip_bfloat16EEvPS2_i": "act_and_mul_kernel",
    "_ZN12_GLOBAL__N_113vector_kernelEv": "vector_kernel",
    "paged_attention_ll4mi_QKV.kd": "paged_attention_ll4mi_QKV",
    "__amd_rocclr_copyBuffer": "__amd_rocclr_copyBuffer",
    "Memcpy HtoD (Host -> Device)": "Memcpy HtoD (Host -> Device)",
    "": "",
}  # fmt: skip


@pytest.mark.parametrize(("text", "short"), CASES.items(), ids=[*CASES.values()])
def test_a_name_keeps_what_tells_kernels_apart(text: str, short: str) -> None:
    assert short_name(text) == short


@given(st.text("abZ_09:<>(){}[], *&-#~CijkMT.", max_size=300) | st.text(max_size=80))
def test_any_text_gives_a_short_name(text: str) -> None:
    assert len(short_name(text)) <= SHORT_CHARS


@pytest.mark.parametrize(
    "text",
    ["<" * 20_000, "a<" * 10_000, "(" * 20_000, "a::" * 7_000, "_Z" + "9" * 20_000, "a<b," * 5_000,
     "Cijk_" + "A_" * 10_000, "f_" + "1d" * 10_000, "f_" + "1" * 20_000, "{" * 20_000],
)  # fmt: skip
def test_hostile_names_are_read_once(text: str) -> None:
    assert len(short_name(text)) <= SHORT_CHARS
