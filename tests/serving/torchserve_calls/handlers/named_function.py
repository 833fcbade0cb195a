def first(data, context):
    return None if data is None else ["first"] * len(data)


def handle(data, context):
    return None if data is None else ["handle"] * len(data)
