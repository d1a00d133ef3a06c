"""Where blocks of memory come to lie."""

from fcn_caffe.net.heap import Heap

MB = 1 << 20


def test_a_freed_block_serves_a_smaller_one_and_the_gap_stays():
    heap = Heap()
    first, _ = heap.take(100_000), heap.take(100_000)
    heap.give(first)
    assert heap.bytes == 200_000
    assert heap.take(60_000).start == 0
    assert heap.take(50_000).start == 200_000  # the rest of the gap is too small
    assert heap.most == 250_000


def test_neighbours_become_one_and_the_end_is_used_again():
    heap = Heap()
    first, second, third = (heap.take(40_000) for _ in range(3))
    _ = heap.take(10)
    for block in (first, third, second):
        heap.give(block)
    assert heap.take(119_000).start == 0
    heap = Heap()
    heap.give(heap.take(100_000))
    assert heap.take(120_000).start == 0 and heap.bytes == 120_000


def test_large_blocks_are_given_back_and_what_is_large_grows():
    heap = Heap()
    block = heap.take(5 * MB)
    assert block.start < 0
    heap.give(block)
    assert heap.bytes == 0 and heap.most == 5 * MB
    kept = heap.take(4 * MB), heap.take(1 * MB)
    assert kept[0].start == 0
    heap.give(kept[0])
    assert heap.bytes == 5 * MB
    heap.trim()
    assert heap.bytes == 1 * MB
    heap.take(4 * MB - 200)
    assert heap.bytes > 4 * MB


def test_a_block_as_large_as_the_largest_given_back_stays_with_the_process():
    heap = Heap()
    heap.give(heap.take(5 * MB))
    block = heap.take(5 * MB)
    heap.give(block)
    assert block.start == 0 and heap.bytes == 5 * MB  # a second is above what is given back at the end


def test_much_that_is_free_at_the_end_is_given_back():
    heap = Heap()
    heap.give(heap.take(1 * MB))
    blocks = [heap.take(MB - 1) for _ in range(3)]
    for block in reversed(blocks):
        heap.give(block)
    assert heap.bytes == 0 and heap.most == 3 * (MB - 1)


def test_a_reserved_block_counts_from_when_it_is_written_to():
    heap = Heap()
    block = heap.reserve(MB)
    copy = heap.take(MB)
    heap.give(copy)
    heap.touch(block)
    assert heap.bytes == heap.most == MB
    block = heap.reserve(2 * MB)
    heap.take(2 * MB)
    heap.touch(block)
    assert heap.bytes == heap.most == 5 * MB
