"""The cases of ONNX's own tests of the table's operators that convscope does not pass, each by its name, by the reason."""

from __future__ import annotations

# The reasons, and how many cases have each, stand in docs/onnx.md too.
_TEXTS = {
    "sequences and optional values, which networks of images do not hold": """
        identity_sequence identity_opt if_seq if_opt loop13_seq loop16_seq_none
    """,
    "numbers of 4 or 8 bits in floating point, whose ranges TensorFlow's casts do not keep to, or which it does not have": """
        cast_FLOAT_to_FLOAT8E4M3FN cast_FLOAT16_to_FLOAT8E4M3FN cast_FLOAT_to_FLOAT8E5M2 cast_FLOAT16_to_FLOAT8E5M2
        castlike_FLOAT_to_FLOAT8E4M3FN castlike_FLOAT_to_FLOAT8E4M3FN_expanded castlike_FLOAT16_to_FLOAT8E4M3FN
        castlike_FLOAT16_to_FLOAT8E4M3FN_expanded castlike_FLOAT_to_FLOAT8E5M2 castlike_FLOAT_to_FLOAT8E5M2_expanded
        castlike_FLOAT16_to_FLOAT8E5M2 castlike_FLOAT16_to_FLOAT8E5M2_expanded cast_FLOAT_to_FLOAT8E4M3FNUZ
        cast_FLOAT16_to_FLOAT8E4M3FNUZ cast_FLOAT8E4M3FNUZ_to_FLOAT cast_FLOAT8E4M3FNUZ_to_FLOAT16
        cast_FLOAT_to_FLOAT8E5M2FNUZ cast_FLOAT16_to_FLOAT8E5M2FNUZ cast_FLOAT8E5M2FNUZ_to_FLOAT
        cast_FLOAT8E5M2FNUZ_to_FLOAT16 cast_FLOAT4E2M1_to_FLOAT cast_FLOAT4E2M1_to_FLOAT16 cast_FLOAT_to_FLOAT4E2M1
        cast_FLOAT16_to_FLOAT4E2M1 cast_no_saturate_FLOAT_to_FLOAT8E4M3FNUZ cast_no_saturate_FLOAT_to_FLOAT8E5M2FNUZ
        cast_no_saturate_FLOAT16_to_FLOAT8E4M3FNUZ cast_no_saturate_FLOAT16_to_FLOAT8E5M2FNUZ
        castlike_FLOAT_to_FLOAT8E4M3FNUZ_expanded castlike_FLOAT16_to_FLOAT8E4M3FNUZ_expanded
        castlike_FLOAT8E4M3FNUZ_to_FLOAT_expanded castlike_FLOAT8E4M3FNUZ_to_FLOAT16_expanded
        castlike_FLOAT_to_FLOAT8E5M2FNUZ_expanded castlike_FLOAT16_to_FLOAT8E5M2FNUZ_expanded
        castlike_FLOAT8E5M2FNUZ_to_FLOAT_expanded castlike_FLOAT8E5M2FNUZ_to_FLOAT16_expanded
        castlike_FLOAT4E2M1_to_FLOAT_expanded castlike_FLOAT4E2M1_to_FLOAT16_expanded
        castlike_FLOAT_to_FLOAT4E2M1_expanded castlike_FLOAT16_to_FLOAT4E2M1_expanded
        castlike_no_saturate_FLOAT_to_FLOAT8E4M3FNUZ_expanded castlike_no_saturate_FLOAT_to_FLOAT8E5M2FNUZ_expanded
        castlike_no_saturate_FLOAT16_to_FLOAT8E4M3FNUZ_expanded castlike_no_saturate_FLOAT16_to_FLOAT8E5M2FNUZ_expanded
        cast_e8m0_FLOAT_to_FLOAT8E8M0 cast_e8m0_FLOAT16_to_FLOAT8E8M0 cast_e8m0_FLOAT8E8M0_to_FLOAT
        cast_e8m0_FLOAT8E8M0_to_FLOAT16 castlike_FLOAT_to_FLOAT8E4M3FNUZ castlike_FLOAT16_to_FLOAT8E4M3FNUZ
        castlike_FLOAT8E4M3FNUZ_to_FLOAT castlike_FLOAT8E4M3FNUZ_to_FLOAT16 castlike_FLOAT_to_FLOAT8E5M2FNUZ
        castlike_FLOAT16_to_FLOAT8E5M2FNUZ castlike_FLOAT8E5M2FNUZ_to_FLOAT castlike_FLOAT8E5M2FNUZ_to_FLOAT16
        castlike_FLOAT4E2M1_to_FLOAT castlike_FLOAT4E2M1_to_FLOAT16 castlike_FLOAT_to_FLOAT4E2M1
        castlike_FLOAT16_to_FLOAT4E2M1 castlike_no_saturate_FLOAT_to_FLOAT8E4M3FNUZ
        castlike_no_saturate_FLOAT_to_FLOAT8E5M2FNUZ castlike_no_saturate_FLOAT16_to_FLOAT8E4M3FNUZ
        castlike_no_saturate_FLOAT16_to_FLOAT8E5M2FNUZ dequantizelinear_e4m3fn dequantizelinear_e4m3fn_float16
        dequantizelinear_e4m3fn_zero_point dequantizelinear_float4e2m1 dequantizelinear_e5m2 quantizelinear_e4m3fn
        quantizelinear_float4e2m1 quantizelinear_e5m2
    """,
    "integers of 2 and 4 bits, which TensorFlow does not compute with": """
        cast_FLOAT_to_UINT4 cast_FLOAT16_to_UINT4 cast_FLOAT_to_INT4 cast_FLOAT16_to_INT4 cast_UINT4_to_FLOAT
        cast_UINT4_to_FLOAT16 cast_INT4_to_FLOAT cast_INT4_to_FLOAT16 cast_FLOAT_to_UINT2 cast_FLOAT16_to_UINT2
        cast_FLOAT_to_INT2 cast_FLOAT16_to_INT2 cast_UINT2_to_FLOAT cast_UINT2_to_FLOAT16 cast_UINT2_to_UINT8
        cast_INT2_to_FLOAT cast_INT2_to_FLOAT16 cast_INT2_to_INT8 castlike_FLOAT_to_UINT4_expanded
        castlike_FLOAT16_to_UINT4_expanded castlike_FLOAT_to_INT4_expanded castlike_FLOAT16_to_INT4_expanded
        castlike_UINT4_to_FLOAT_expanded castlike_UINT4_to_FLOAT16_expanded castlike_INT4_to_FLOAT_expanded
        castlike_INT4_to_FLOAT16_expanded castlike_FLOAT_to_UINT2_expanded castlike_FLOAT16_to_UINT2_expanded
        castlike_FLOAT_to_INT2_expanded castlike_FLOAT16_to_INT2_expanded castlike_UINT2_to_FLOAT_expanded
        castlike_UINT2_to_FLOAT16_expanded castlike_UINT2_to_UINT8_expanded castlike_INT2_to_FLOAT_expanded
        castlike_INT2_to_FLOAT16_expanded castlike_INT2_to_INT8_expanded castlike_FLOAT_to_UINT4
        castlike_FLOAT16_to_UINT4 castlike_FLOAT_to_INT4 castlike_FLOAT16_to_INT4 castlike_UINT4_to_FLOAT
        castlike_UINT4_to_FLOAT16 castlike_INT4_to_FLOAT castlike_INT4_to_FLOAT16 castlike_FLOAT_to_UINT2
        castlike_FLOAT16_to_UINT2 castlike_FLOAT_to_INT2 castlike_FLOAT16_to_INT2 castlike_UINT2_to_FLOAT
        castlike_UINT2_to_FLOAT16 castlike_UINT2_to_UINT8 castlike_INT2_to_FLOAT castlike_INT2_to_FLOAT16
        castlike_INT2_to_INT8 dequantizelinear_uint4 dequantizelinear_uint2 dequantizelinear_int4 dequantizelinear_int2
        quantizelinear_uint4 quantizelinear_uint2 quantizelinear_int4 quantizelinear_int2
    """,
    "blocks of quantised numbers, each of a scale of its own": """
        dequantizelinear_blocked quantizelinear_blocked_asymmetric quantizelinear_blocked_symmetric
    """,
    "`Dropout` in training mode with a ratio above zero, which is random": """
        training_dropout_default training_dropout_default_mask training_dropout training_dropout_mask
    """,
    "operator sets before 7": """
        not_2d not_3d not_4d
    """,
    "`MaxUnpool` with an output shape, whose positions ONNX's test counts in another shape": """
        maxunpool_export_with_output_shape
    """,
}

LEFT_OUT = {reason: text.split() for reason, text in _TEXTS.items()}
