"""What the TensorRT engine inspector says, read: layers of TensorRT 8 and 10, with the keys of its developer guide."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lowbit.runtime import inspector

# A convolution of TensorRT 8 as the guide shows one.
CONVOLUTION_8 = {
    "Name": "/model.0/conv/Conv + PWN(/model.0/act/Sigmoid, /model.0/act/Mul)",
    "LayerType": "CaskConvolution",
    "Inputs": [
        {
            "Name": "images_q",
            "Dimensions": [1, 32, 80, 80],
            "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format.",
        }
    ],
    "Outputs": [
        {
            "Name": "a",
            "Dimensions": [1, 64, 80, 80],
            "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format.",
        }
    ],
    "ParameterType": "Convolution",
    "Kernel": [3, 3],
    "OutMaps": 64,
    "Groups": 1,
    "Weights": {"Type": "Int8", "Count": 18432},
    "Bias": {"Type": "Float", "Count": 64},
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw_vect_c_32_"
    "tilesize96x64x64_stage3_warpsize2x2x1_g1_tensor16x8x32_simple_t1r3s3",
    "TacticValue": "0x11bde0e1d9f2f35d",
}


def tensors(*types: str) -> list[dict[str, Any]]:
    return [{"Name": "x", "Location": "Device", "Dimensions": [1, 8, 4, 4], "Format/Datatype": t} for t in types]


def layer(name: str, kind: str, *inputs: str, **more: Any) -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "Inputs": tensors(*inputs), "Outputs": tensors(*inputs[:1]), **more}


def read(*layers: Any, **macs: int) -> inspector.Precisions:
    return inspector.read_precisions(json.dumps({"Layers": list(layers), "Bindings": ["images", "output0"]}), macs)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Row major linear FP32", "FP32"),
        ("Channel major FP16 format where channel % 8 == 0", "FP16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "INT8"),
        ("Row major Int32 format", "INT32"),
        ("Float", "FP32"),
        ("Half", "FP16"),
        ("BFloat16", "BF16"),
        ("Int8", "INT8"),
        ("FP8", "FP8"),
        ("Int4", "INT4"),
        ("Int64", "INT64"),
        ("Bool", "BOOL"),
        ("something new", "something new"),
        ("", "unknown"),
    ],
)
def test_types_of_both_spellings(said: str, kind: str) -> None:
    assert read(layer("a", "PointWiseV2", said)).layers == {kind: 1}


@pytest.mark.parametrize(
    ("tactic", "kind"),
    [
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32", "INT8"),
        # INT8 in, a float out: computed in INT8; and INT8 in, computed in half precision.
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw", "INT8"),
        ("sm80_xmma_fprop_implicit_gemm_indexed_i8f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64", "FP16"),
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize64x64x64_stage5", "FP16"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x16x32_stage4", "FP32"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize32x32x8_stage3", "FP32"),
        ("sm89_xmma_fprop_implicit_gemm_e4m3e4m3_e4m3f32_f32_nhwckrsc_nhwc_tilesize64x64x64", "FP8"),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x32_stage3", "BF16"),
        ("sm50_xmma_cublas_gemvx_f16f16_f32_f32_tn_n_int32_unit_n_launch_param4x32x32_strided", "FP16"),
        ("ampere_h16816gemm_256x128_ldg8_nn_v1", "FP16"),
        ("turing_int8_i8816cudnn_int8_256x128_ldg16_relu_singleBuffer_medium_nt_v1", "INT8"),
        ("ampere_scudnn_128x64_relu_xregs_large_nn_v1", "FP32"),
    ],
)
def test_a_kernel_says_what_it_computes_in(tactic: str, kind: str) -> None:
    """Whatever its inputs and weights are stored as."""
    one = layer("a", "CaskConvolution", "Int4", Weights={"Type": "Int4", "Count": 8}, TacticName=tactic)
    assert inspector.computes_in(one) == kind


def test_a_convolution_by_a_float_kernel_under_int8_inputs_is_in_float() -> None:
    """TensorRT 10: the inputs are INT8, the kernel widens them."""
    other = layer(
        "/model.1/conv/Conv",
        "CaskConvolution",
        "Int8",
        ParameterType="Convolution",
        Weights={"Type": "Half", "Count": 18432},
        TacticName="sm80_xmma_fprop_implicit_gemm_indexed_wo_smem_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x32x16",
    )
    found = read(CONVOLUTION_8, other, **{"/model.0/conv/Conv": 300, "/model.1/conv/Conv": 100})
    assert found.layers == {"INT8": 1, "FP16": 1}
    assert found.mac_fractions == {"INT8": 0.75, "FP16": 0.25}
    assert found.float_convolutions == ("/model.1/conv/Conv",)


def test_weights_speak_where_the_kernel_says_nothing() -> None:
    """A sum in half precision enters the same layer, and its convolution is in INT8."""
    fused = layer(
        "/m/Conv + /m/Add", "CaskConvolution", "Half", "Int8", Weights={"Type": "Int8", "Count": 8}, TacticName="cask_7"
    )
    weights_only = layer("/n/Conv", "CaskConvolution", "Int8", Weights={"Type": "Float", "Count": 8})
    empty = layer("/o/Conv", "CaskConvolution", "Int8", Weights={"Type": "Float", "Count": 0})
    assert [inspector.computes_in(one) for one in (fused, weights_only, empty)] == ["INT8", "FP32", "INT8"]


def test_a_gemm_that_was_a_convolution_counts_by_its_metadata() -> None:
    """TensorRT 10: Myelin's layers have names of their own, weights among their inputs, and the ONNX nodes as metadata."""
    gemm = layer(
        "__myl_Fc_myl3_5",
        "gemm",
        "Int8",
        "Int8",
        Metadata="[ONNX Layer: /model.2/cv1/conv/Conv]\x1e[ONNX Layer: /model.2/cv1/act/Sigmoid]",
        TacticName="sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize64x64x64_stage4_warpsize2x2x1_tensor16x8x32",
    )
    product = layer("__myl_MatM_myl3_9", "gemm", "Half", "Half", Metadata="[ONNX Layer: /model.10/attn/MatMul]")
    found = read(gemm, product, **{"/model.2/cv1/conv/Conv": 90, "/model.10/attn/MatMul": 10})
    assert found.mac_fractions == {"INT8": 0.9, "FP16": 0.1}
    assert found.float_convolutions == ("__myl_MatM_myl3_9",)


def test_two_convolutions_that_became_one() -> None:
    joined = layer("/a/Conv || /b/Conv", "CaskGemmConvolution", "FP8", ParameterType="Convolution")
    found = read(joined, **{"/a/Conv": 1, "/b/Conv": 2})
    assert found.mac_fractions == {"FP8": 1.0} and found.float_convolutions == ()


def test_fused_pointwise_and_moves() -> None:
    """What is fused of INT8 and a float computes in the float; moves compute nothing."""
    found = read(
        layer("to int8", "Reformat", "Float"),
        layer("PWN(PWN(/m/act/Sigmoid), PWN(/m/act/Mul))", "PointWiseV2", "Int8", "Half"),
        layer("__mye_softmax", "kgen", "Float", Metadata="[ONNX Layer: /model.23/dfl/Softmax]"),
        layer("signal", "signal", "Float"),
        layer("nothing", "NoOp", "Int8"),
        layer("weights", "Constant"),
        CONVOLUTION_8,
        **{"/model.0/conv/Conv": 5},
    )
    assert found.layers == {"FP16": 1, "FP32": 1, "INT8": 1}
    assert found.mac_fractions == {"INT8": 1.0} and found.float_convolutions == ()


def test_a_share_of_what_was_not_found_is_none() -> None:
    """And a convolution whose node is unknown is told by what the layer calls itself."""
    stray = layer("fused region", "CaskConvolution", "Half")
    found = read(CONVOLUTION_8, stray, **{"/model.0/conv/Conv": 5, "/model.9/Conv": 5})
    assert found.mac_fractions is None and found.float_convolutions == ("fused region",)


def test_later_versions_name_the_type_apart_from_the_format() -> None:
    one = {"Name": "a", "LayerType": "kgen", "Inputs": [{"Name": "x", "Format": "Row major", "Datatype": "Half"}]}
    assert inspector.computes_in(one) == "FP16"


def test_an_engine_that_names_its_layers_only() -> None:
    with pytest.raises(ValueError, match="DETAILED"):
        read("/model.0/conv/Conv")
