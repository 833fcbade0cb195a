from satrap.compat.torchserve import send_intermediate_predict_response

__all__ = ["send_intermediate_predict_response"]
