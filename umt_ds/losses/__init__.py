"""One file for each loss: plain functions of tensors, computed in fp32, returning a scalar."""
