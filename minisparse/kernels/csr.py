"""Products with a sparse matrix in compressed rows (CSR)."""
import numpy as np

from ._jit import jit

TILE = 512      # numbers of an output row that are summed at a time, in the first-level cache
# Unsigned indices spare the test for negative ones; a signed number beside them would make a float.
U1, U2, U3, U4, U5, U6, U7, U8 = (np.uint64(i) for i in range(1, 9))


@jit(fastmath={"contract"})     # a product and a sum in one instruction, rounded once: more exact, not less
def multiply_matrix(indptr, column, value, x, out):
    """out[o, t] += sum over k in indptr[o] ... indptr[o + 1] of value[k] x[column[k], t].

    indptr (M + 1,), column (nnz,): int64; value (nnz,), x (K, N), out (M, N) of one float dtype.
    Cost: nnz N multiply-adds, eight nonzeros for each pass over the tile of sums.
    """
    rows, length = out.shape
    for t in range(0, length, TILE):
        size = min(TILE, length - t)
        for o in range(rows):
            total = out[o, t:t + size]
            k, end = indptr[o], indptr[o + 1]
            while k + 8 <= end:
                v0, v1, v2, v3 = value[k], value[k + 1], value[k + 2], value[k + 3]
                v4, v5, v6, v7 = value[k + 4], value[k + 5], value[k + 6], value[k + 7]
                x0, x1 = x[column[k], t:t + size], x[column[k + 1], t:t + size]
                x2, x3 = x[column[k + 2], t:t + size], x[column[k + 3], t:t + size]
                x4, x5 = x[column[k + 4], t:t + size], x[column[k + 5], t:t + size]
                x6, x7 = x[column[k + 6], t:t + size], x[column[k + 7], t:t + size]
                for j in range(size):
                    total[j] += (v0 * x0[j] + v1 * x1[j] + v2 * x2[j] + v3 * x3[j]
                                 + v4 * x4[j] + v5 * x5[j] + v6 * x6[j] + v7 * x7[j])
                k += 8
            while k < end:
                v0, x0 = value[k], x[column[k], t:t + size]
                for j in range(size):
                    total[j] += v0 * x0[j]
                k += 1


@jit(fastmath={"contract"})
def multiply_vector(indptr, column, value, x, out):
    """out[o] = sum over k in indptr[o] ... indptr[o + 1] of value[k] x[column[k]]: a matrix times a vector.

    indptr (O + 1,): uint64, column (nnz,): uint64 or uint32; value (nnz,), x (K,), out (O,) of one float dtype.
    Cost: nnz multiply-adds, in eight sums at a time, so that none waits for the one before it.
    """
    zero = value.dtype.type(0)
    for o in range(len(out)):
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zero
        k, end = indptr[o], indptr[o + 1]
        while k + U8 <= end:
            s0 += value[k] * x[column[k]]
            s1 += value[k + U1] * x[column[k + U1]]
            s2 += value[k + U2] * x[column[k + U2]]
            s3 += value[k + U3] * x[column[k + U3]]
            s4 += value[k + U4] * x[column[k + U4]]
            s5 += value[k + U5] * x[column[k + U5]]
            s6 += value[k + U6] * x[column[k + U6]]
            s7 += value[k + U7] * x[column[k + U7]]
            k += U8
        while k < end:
            s0 += value[k] * x[column[k]]
            k += U1
        out[o] = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@jit(fastmath={"contract", "reassoc"})      # a sum in any order: without it, one addition waits for the other
def sample_product(indptr, column, g, x, out):
    """out[k] = g[o] . x[column[k]] for k in indptr[o] ... indptr[o + 1]: g @ x.T at the nonzeros alone.

    The gradient of the values of a CSR matrix (O, K) in its product with x; g is the gradient of the result.
    indptr (O + 1,), column (nnz,): int64; g (O, N), x (K, N), out (nnz,) of one float dtype.
    Cost: nnz N multiply-adds.
    """
    for o in range(len(g)):
        left = g[o]
        for k in range(indptr[o], indptr[o + 1]):
            right = x[column[k]]
            total = out.dtype.type(0)
            for j in range(len(left)):
                total += left[j] * right[j]
            out[k] = total
