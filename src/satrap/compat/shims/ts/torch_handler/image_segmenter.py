from satrap.serving.torch_handler.image_segmenter import ImageSegmenter

__all__ = ["ImageSegmenter"]
