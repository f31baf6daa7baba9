"""Description of a packed layer for compiled code, an int64 array."""

#: Address of the packed weight; of its scales, 0 if it is bfloat16; of the value of each code,
#: float32 ``[16]``; of the bias, bfloat16 ``[out]``, 0 for none; numbers of inputs and of outputs;
#: inputs that share a scale; whether the CPU's matrix tiles may be used, or ``PLAIN_ROWS``.
WEIGHT, SCALES, TABLE, BIAS, WIDTH, OUTPUTS, BLOCK, TILES = range(8)
#: Length of the description.
FIELDS = 8
#: ``TILES`` of a weight that is not packed, bfloat16 ``[out, in]``, on a CPU with tiles.
PLAIN_ROWS = 2
