from satrap.compat.text_streamer import TextIteratorStreamerBatch

__all__ = ["TextIteratorStreamerBatch"]
