"""A BaseHandler with a customized description, whose model is a file that is never loaded."""

from ts.torch_handler.base_handler import BaseHandler


class Described(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.initialized = True

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [self.describe_handle()]
        return ["predicted"] * len(data)

    def describe_handle(self):
        return {"input": "anything", "labels": ["a", "b"]}
