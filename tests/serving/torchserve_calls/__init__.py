"""The same REST and gRPC calls for TorchServe and satrap, and what to make of the answers.

`scenarios` are the calls as data, `send` sends them, `answer` is what came back, without what changes from run to run,
`differences` compares two servers' answers and knows which differences are meant to be (`deliberate.yaml`).
`scripts/compare_torchserve` runs them against both servers; tests send them to satrap alone and compare with what the
real server answered (`tests/data/torchserve`).
"""
