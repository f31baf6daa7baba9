"""Places of the numbers and addresses that describe a decoder and a step, in int64 arrays.

Compiled code is handed the address of a step alone, whose fields lead to everything else: functions
of integers are compiled several times as fast as functions of arrays.
"""

from __future__ import annotations

#: Linear layers of a decoder layer, in the order of their descriptions.
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QUERY, KEY, VALUE, OUTPUT, GATE, UP, DOWN = range(7)

#: A step and its decoder.
(
    COUNTERS,
    # sizes
    NUM_LAYERS,
    HIDDEN,
    HEADS,
    KV_HEADS,
    HEAD_DIM,
    INTERMEDIATE,
    TOKENS,
    SEQUENCES,
    # of the decoder, addresses: bfloat16 embedding, last norm
    EMBEDDING,
    LAST_NORM,
    # float32: epsilon of the norms, factor of the scores of attention
    NUMBERS,
    # [layers, LAYER_FIELDS]; [layers, 7, fields of multiply_groups]
    LAYERS,
    DESCRIPTIONS,
    # [layers, 7, 2]: addresses of the tables of rank slots
    TABLES,
    # of the step, [tokens] each: token id, row of the rotation, slot in the KV cache
    IDS,
    ROTATION,
    SLOTS,
    # bfloat16 [rows, head_dim] each
    COSINE,
    SINE,
    # slots of the contexts of all sequences; [sequences, SEQUENCE_FIELDS]
    CONTEXT,
    SEQUENCE,
    # adapters: plan of each linear layer [layers, 7], -1 for none; first entry of each plan;
    # [entries, ENTRY_FIELDS]; entry of each token [plans, tokens], -1 for none
    PLANS,
    FIRST_ENTRIES,
    ENTRIES,
    ENTRY_OF,
    # [slices, 2]: first rank slot and rank; float32 [slices]
    SLICES,
    WEIGHTS,
    # parts of long runs of tokens of an adapter, which have no entries: first part of each plan;
    # [parts, PART_FIELDS]; first slot of each run; rank slots; float32, their weights
    FIRST_PARTS,
    PARTS,
    RUNS,
    PART_SLOTS,
    PART_WEIGHTS,
    # float32 [7, INNER_SIZE]: results of the first factors of the adapters
    INNER,
    INNER_SIZE,
    # bfloat16 [tokens, hidden] each: residual stream, and its norm
    STATE,
    NORMAL,
    # bfloat16 [tokens, heads * head_dim]
    ATTENDED,
    # bfloat16 [tokens, out] of each linear layer
    RESULTS,
) = range(39)
STEP_FIELDS = RESULTS + len(LINEARS)

#: A layer: addresses of its norms, 0 for those it lacks, and of its part of the KV cache.
INPUT_NORM, POST_NORM, QUERY_NORM, KEY_NORM, KEYS, VALUES, LAYER_FIELDS = range(7)

#: A sequence of a step: its first token, its number of tokens, the length of its context with
#: them, the place of its context, the first of its items of attention, and the number of items that
#: share the heads of a block of tokens.
FIRST, COUNT, LENGTH, PLACE, ITEM, SHARES, SEQUENCE_FIELDS = range(7)

#: The adapters of a token: its number, its first slice and the one after the last, and the place of
#: its results of the first factors.
TOKEN, FIRST_SLICE, LAST_SLICE, INNER_PLACE, ENTRY_FIELDS = range(5)

#: A part: its first token, the one after the last, and its run.
PART_BEGIN, PART_END, RUN, PART_FIELDS = range(4)

#: Number of query tokens of an item of attention.
QUERY_BLOCK = 16
