"""Stage 1: masked video distillation from a frozen teacher."""
