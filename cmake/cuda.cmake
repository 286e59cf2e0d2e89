# CUDA is optional: MN_CUDA_TEXT says in one line what was built, or why not.
set(MN_CUDA_ARCHS_TEXT "")
set(MN_CUDA_TEXT "not built (MIMO_CUDA=${MIMO_CUDA})")
