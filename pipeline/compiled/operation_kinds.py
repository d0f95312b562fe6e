"""What kinds of operations there are in a graph, for what goes back through it operation by operation."""

from __future__ import annotations

CONVOLUTIONS = {"Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3D", "Conv"}
SQUASHING = {"Sigmoid", "Tanh", "Erf", "Erfc", "Softmax", "Rsqrt", "Reciprocal", "Sqrt", "Exp", "Softplus"}
# fmt: off
ELEMENTWISE = SQUASHING | {
    "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softsign", "Minimum", "Maximum", "ClipByValue", "Pow", "Square", "Abs",
    "Log", "Log1p", "Expm1", "LogSoftmax", "Select", "SelectV2", "SquaredDifference", "Identity", "Cast", "StopGradient",
    "CheckNumerics", "EnsureShape", "PreventGradient",
}
# These move values, or keep the largest: what an output is given goes to the value that it is.
MOVES = {
    "Reshape", "Transpose", "Squeeze", "ExpandDims", "Pad", "PadV2", "MirrorPad", "ConcatV2", "Pack", "Unpack", "Split",
    "SplitV", "Slice", "StridedSlice", "GatherV2", "ReverseV2", "Tile", "BroadcastTo", "SpaceToBatchND", "BatchToSpaceND",
    "SpaceToDepth", "DepthToSpace", "MaxPool", "MaxPoolV2", "Max", "Min", "ResizeNearestNeighbor", "Roll",
}
# fmt: on
SUMS = {"AvgPool", "Mean", "Sum", "AddN", "Add", "AddV2", "Sub", "ResizeBilinear"}
NORMALISATIONS = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}
AFFINE = {"Mul", "RealDiv", "Div", "Add", "AddV2", "Sub", "BiasAdd", "Neg"} | NORMALISATIONS
BETWEEN = {"Identity", "BatchToSpaceND"}  # a convolution and the affine operations that are a part of it
PRODUCTS = {"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"}
