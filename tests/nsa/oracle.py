"""Native Sparse Attention in plain Python: loops over lists, sets of positions, nothing shared with the code under test.

One sequence and one KV head: `queries` [h][S][Dk] are the heads of its group, `keys` [S][Dk], `values` [S][Dv].
"""

import math

Vector = list[float]


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def softmax(scores: Vector) -> Vector:
    terms = [math.exp(score - max(scores)) for score in scores]
    return [term / math.fsum(terms) for term in terms]


def weights(query: Vector, keys: list[Vector]) -> Vector:
    return softmax([dot(query, key) / math.sqrt(len(query)) for key in keys])


def attend(query: Vector, keys: list[Vector], values: list[Vector], width: int) -> Vector:
    """Attention over these keys; zeros of `width` over none."""
    if not keys:
        return [0.0] * width
    shares = weights(query, keys)
    return [math.fsum(share * value[c] for share, value in zip(shares, values, strict=True)) for c in range(width)]


def starts(seq_len, g):
    """Where the compressed tokens begin: every d-th key that has l - 1 more after it."""
    return [i for i in range(0, seq_len, g.stride) if i + g.block_len <= seq_len]


def pool(rows: list[Vector], g) -> list[Vector]:
    return [
        [math.fsum(rows[i + j][c] for j in range(g.block_len)) / g.block_len for c in range(len(rows[0]))]
        for i in starts(len(rows), g)
    ]


def seen_compressed(t, seq_len, g):
    return [j for j, i in enumerate(starts(seq_len, g)) if max(range(i, i + g.block_len)) <= t]


def seen_window(t, g):
    return [s for s in range(t + 1) if t - s < g.window]


def shared_positions(i, j, g):
    """How many positions compressed token i and selection block j have in common."""
    token = set(range(i * g.stride, i * g.stride + g.block_len))
    return len(token & set(range(j * g.select_len, (j + 1) * g.select_len)))


def block_scores(queries, keys, t, g):
    """Equations 8 to 10: the heads' weights of the compressed tokens, shared out by overlap, in strides."""
    blocks = range(math.ceil(len(keys) / g.select_len))
    tokens = seen_compressed(t, len(keys), g)
    if not tokens:
        return [0.0 for _ in blocks]
    pooled = pool(keys, g)
    of_heads = [weights(head[t], [pooled[i] for i in tokens]) for head in queries]
    return [math.fsum(p[i] * shared_positions(i, j, g) / g.stride for p in of_heads for i in range(len(tokens))) for j in blocks]


def choose(scores, t, g):
    """The first block, the query's own and the one before it, then the best others: sorted, ties to the lower index."""
    own = t // g.select_len
    forced = {0, own} | ({own - 1} if own else set())
    others = sorted(set(range(own + 1)) - forced, key=lambda block: (-scores[block], block))
    return sorted(forced | set(others[: g.num_select - len(forced)]))


def seen_selected(blocks, t, g):
    return sorted({s for block in blocks for s in range(block * g.select_len, (block + 1) * g.select_len) if s <= t})


def take(rows, places):
    return [rows[place] for place in places]


def dense(query, keys, values, t):
    return attend(query, keys[: t + 1], values[: t + 1], len(values[0]))


def sliding(query, keys, values, t, g):
    seen = seen_window(t, g)
    return attend(query, take(keys, seen), take(values, seen), len(values[0]))


def compressed(query, keys, values, t, g):
    seen = seen_compressed(t, len(keys), g)
    return attend(query, take(pool(keys, g), seen), take(pool(values, g), seen), len(values[0]))


def selected(query, keys, values, t, blocks, g):
    seen = seen_selected(blocks, t, g)
    return attend(query, take(keys, seen), take(values, seen), len(values[0]))
