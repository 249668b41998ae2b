"""Ops that do no arithmetic: they make, fill, copy or inspect memory."""

from collections.abc import Callable, Iterable

from flopcount.formulas import bytes as traffic
from flopcount.formulas.registry import free

FILLINGS = ("value", "fill_value", "s")
"""Names of parameters for the number that memory is filled with."""


def moves(
    *names: str,
    traffic: Callable[..., tuple[int, int]] = traffic.operands_and_results,
    coefficients: Iterable[str] = FILLINGS,
) -> None:
    """Declare aten ops ``names`` free."""
    free(*(f"aten::{name}" for name in names), traffic=traffic, coefficients=coefficients)


# memory that is not filled, and views
moves("empty", "empty_like", "empty_permuted", "empty_strided", traffic=traffic.nothing)
moves("new_empty", "new_empty_strided", "_efficientzerotensor", traffic=traffic.nothing)
moves("resize", "resize_as", "_resize_output", "set", traffic=traffic.nothing)
moves("_unsafe_view", "unsafe_split", "unsafe_split_with_sizes", traffic=traffic.nothing)
moves("detach_", "lift", "as_strided_", "t_", "transpose_", traffic=traffic.nothing)
moves("squeeze_", "unsqueeze_", "_mkldnn_reshape", "_mkldnn_transpose", traffic=traffic.nothing)
moves("_sparse_coo_tensor_with_dims", "_coalesced", "sparse_resize", traffic=traffic.nothing)
moves("_sparse_coo_tensor_with_dims_and_tensors", traffic=traffic.nothing)
moves("_sparse_compressed_tensor_with_dims", traffic=traffic.nothing)
moves("sparse_resize_and_clear", "resize_as_sparse", "empty_quantized", traffic=traffic.nothing)
moves("sparse_coo_tensor.size", "sparse_compressed_tensor", traffic=traffic.nothing)
moves("_lazy_clone", "from_file", "_make_dep_token", traffic=traffic.nothing)

# questions about a tensor; an op that asks for values reads them
moves("is_same_size", "is_set_to", "is_pinned", "is_coalesced", traffic=traffic.nothing)
moves("sparse_dim", "dense_dim", "_dimI", "_dimV", "_nnz", traffic=traffic.nothing)
moves("_assert_tensor_metadata", "_fused_sdp_choice", traffic=traffic.nothing)
moves("_has_same_storage_numel", "_debug_has_internal_overlap", traffic=traffic.nothing)
moves("q_scale", "q_zero_point", "q_per_channel_axis", "qscheme", traffic=traffic.nothing)
moves("q_per_channel_scales", "q_per_channel_zero_points", traffic=traffic.nothing)
moves("_assert_scalar", "_functional_assert_scalar", "_print", traffic=traffic.nothing)
moves("sym_constrain_range", "sym_constrain_range_for_size", traffic=traffic.nothing)
moves("_functional_sym_constrain_range", traffic=traffic.nothing)
moves("_functional_sym_constrain_range_for_size", "record_stream", traffic=traffic.nothing)
moves("_use_cudnn_ctc_loss", "_use_miopen_ctc_loss", "_is_all_true", "_is_any_true")
moves("_local_scalar_dense", coefficients=("out",))
moves("_assert_async", "_functional_assert_async")
free("profiler::_record_function_enter", traffic=traffic.nothing)
free("profiler::_record_function_enter_new", traffic=traffic.nothing)
free("profiler::_record_function_exit", traffic=traffic.nothing)

# memory filled with one value or a sequence; generating a sequence is no work on data
moves("zeros", "ones", "full", "scalar_tensor", "eye", "arange", "range", "linspace", "logspace")
moves("tril_indices", "triu_indices", "fft_fftfreq", "fft_rfftfreq")
moves("zeros_like", "ones_like", "full_like", traffic=traffic.refilled)
moves("new_zeros", "new_ones", "new_full", traffic=traffic.refilled)
moves("zero", "fill", "_foreach_zero", traffic=traffic.refilled)
moves("_new_zeros_with_same_feature_meta", traffic=traffic.refilled)

# copies, whole
moves("clone", "_to_copy", "_to_dense", "_to_sparse", "to_mkldnn", "_pin_memory", "_foreach_clone")
moves("_to_sparse_csr", "_to_sparse_csc", "_to_sparse_bsr", "_to_sparse_bsc")
moves("copy", "_foreach_copy", "copy_sparse_to_sparse", traffic=traffic.refilled)
moves("_copy_from", "_copy_from_and_resize")
moves("alias_copy", "detach_copy", "expand_copy", "lift_fresh_copy", "permute_copy", "t_copy")
moves("squeeze_copy", "transpose_copy", "unfold_copy", "unsqueeze_copy", "view_copy")
moves("_reshape_copy", "_reshape_alias_copy", "_conj_copy", "_neg_view_copy")
moves("view_as_complex_copy", "view_as_real_copy", "_fw_primal_copy", "_make_dual_copy")
moves("indices_copy", "values_copy", "_indices_copy", "_values_copy", "crow_indices_copy")
moves("col_indices_copy", "ccol_indices_copy", "row_indices_copy")
moves("cat", "stack", "_stack", "_chunk_cat", "block_diag", "repeat", "roll", "flip")
moves("rot90", "channel_shuffle", "native_channel_shuffle", "complex", "tril", "triu", "diag_embed")
moves("_sparse_mask_projection", "im2col")

# bits that are combined, which is integer arithmetic
moves("hash_tensor")

# copies of a part
moves("select_copy", "slice_copy", "narrow_copy", "diagonal_copy", traffic=traffic.gathered)
moves("as_strided_copy", "unbind_copy", "split_copy", traffic=traffic.gathered)
moves("split_with_sizes_copy", traffic=traffic.gathered)

# a part placed into zeros, or into a copy
moves("select_backward", "slice_backward", "diagonal_backward")
moves("select_scatter", "slice_scatter", "diagonal_scatter", "as_strided_scatter")

# between processes; a reduction adds in the network, or in its library
_COLLECTIVES = (
    *("all_gather_into_tensor", "all_gather_into_tensor_coalesced"),
    *("all_reduce", "all_reduce_coalesced", "all_to_all_single", "broadcast"),
    *("reduce_scatter_tensor", "reduce_scatter_tensor_coalesced"),
)
for _namespace in ("_c10d_functional", "c10d_functional", "_c10d_functional_autograd"):
    free(*(f"{_namespace}::{name}" for name in _COLLECTIVES))
    free(f"{_namespace}::irecv", traffic=traffic.received)
    free(f"{_namespace}::isend", traffic=traffic.sent)
    free(f"{_namespace}::batch_p2p_ops", traffic=traffic.exchanged)
    free(f"{_namespace}::wait_tensor", traffic=traffic.nothing)
    free(f"{_namespace}::_wrap_tensor_autograd", traffic=traffic.nothing)
    free(f"{_namespace}::all_gather_into_tensor_out", f"{_namespace}::reduce_scatter_tensor_out")
# many of c10d's return only a handle to wait for: what they write is their first argument
free(
    *("c10d::allreduce_", "c10d::allreduce_coalesced_", "c10d::broadcast_", "c10d::reduce_"),
    traffic=traffic.replaced,
)
free(
    *("c10d::_allgather_base_", "c10d::allgather_", "c10d::allgather_coalesced_"),
    *("c10d::allgather_into_tensor_coalesced_", "c10d::alltoall_", "c10d::alltoall_base_"),
    *("c10d::_reduce_scatter_base_", "c10d::reduce_scatter_", "c10d::gather_", "c10d::scatter_"),
    *("c10d::reduce_scatter_tensor_coalesced_", "c10d::recv_", "c10d::recv_any_source_"),
    traffic=traffic.received,
)
free("c10d::send", "c10d::check_for_nan", traffic=traffic.sent)
free("c10d::barrier", "c10d::monitored_barrier_", traffic=traffic.nothing)
free("_dtensor::shard_dim_alltoall")
free("_dtensor::mesh_get_process_group", traffic=traffic.nothing)
free("fsdp::split_with_sizes_copy", "fsdp::chunk_cat")
free("fsdp::copy_", traffic=traffic.refilled)
free("fsdp::all_gather_copy_in", traffic=traffic.packed)
