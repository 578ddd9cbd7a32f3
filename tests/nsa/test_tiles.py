"""The rules that choose tiles and chunks: what they need fits into a GPU's shared memory, and big dims get smaller tiles."""

import pytest
import torch

from workloads.nsa.geometry import Geometry
from workloads.nsa.kernels import tiles

KIB = 1024
ROOMS = pytest.mark.parametrize("room", [99 * KIB, 163 * KIB, 227 * KIB])
DIMS = pytest.mark.parametrize(("dim", "v_dim"), [(16, 16), (64, 64), (128, 128), (256, 128), (128, 256), (256, 256)])
SIZES = pytest.mark.parametrize("size", [2, 4])


@ROOMS
@DIMS
@SIZES
def test_queries_keys_and_values_under_way_fit(room, dim, v_dim, size):
    tile = tiles.attention_tile(dim, v_dim, size, room)
    assert size * (tile.rows * dim + tile.stages * tile.keys * (dim + v_dim)) <= room
    tile = tiles.score_tile(dim, size, room)
    assert size * dim * (tile.rows + tile.stages * tile.keys) <= room
    tile = tiles.merge_tile(dim, v_dim, size, room)
    assert size * (tile.rows + tile.keys) * (dim + v_dim) <= room


@ROOMS
@DIMS
@SIZES
def test_a_block_that_stays_fits_with_a_tile_of_queries_or_there_is_no_tile(room, dim, v_dim, size):
    tile = tiles.far_tile(dim, v_dim, 64, size, room)
    assert tile is None or size * (tile.rows + 64) * (dim + v_dim) <= room
    assert tiles.far_tile(dim, v_dim, 256, size, room) is None


@ROOMS
def test_every_gpu_has_the_paper_s_shape_with_64_rows(room):
    assert tiles.attention_tile(128, 128, 2, room).rows == 64
    assert tiles.far_tile(128, 128, 64, 2, room) == tiles.Tile(64, 64, 4, 1)


@pytest.mark.parametrize(("size", "padded"), [(1, 16), (16, 16), (17, 32), (96, 128), (128, 128), (192, 256)])
def test_a_product_takes_powers_of_two_from_16_on(size, padded):
    assert tiles.padded(size) == padded


def test_without_a_gpu_there_is_as_much_room_as_on_hopper():
    assert tiles.room(torch.device("cpu")) == 227 * KIB


class TestByBlock:
    """When the selected branch goes block by block; Triton has to be there, since the module holds kernels."""

    @pytest.fixture(autouse=True)
    def triton(self):
        pytest.importorskip("triton")

    def pays(
        self, seq_len: int, *, heads: int = 64, kv_heads: int = 4, keys: int | None = None, g: Geometry | None = None
    ) -> bool:
        from workloads.nsa.kernels import pays

        q = torch.empty(1, seq_len, heads, 128, dtype=torch.bfloat16, device="meta")
        k = torch.empty(1, keys or seq_len, kv_heads, 128, dtype=torch.bfloat16, device="meta")
        return pays(q, k, k, g or Geometry())

    def test_a_long_prompt_does(self):
        assert self.pays(8192)

    def test_a_short_one_in_which_nearly_every_block_is_chosen_does_not(self):
        assert not self.pays(1024)

    def test_a_step_does_not(self):
        assert not self.pays(1, keys=65536)

    def test_blocks_of_few_keys_do_not_since_a_part_is_as_large(self):
        assert not self.pays(8192, g=Geometry(16, 16, 16))
        assert self.pays(8192, heads=4, g=Geometry(16, 16, 16))

    @pytest.mark.parametrize(("blocks", "chunk"), [(1, 256), (64, 256), (65, 512), (128, 512), (1024, 2048), (16384, 2048)])
    def test_a_chunk_has_some_four_queries_a_block(self, blocks, chunk):
        import importlib

        assert importlib.import_module("workloads.nsa.kernels.by_block").chunk_of(blocks) == chunk
