class Handler:
    def initialize(self, context):
        raise ValueError("this handler cannot be initialized")

    def handle(self, data, context):
        return ["never"] * len(data)
