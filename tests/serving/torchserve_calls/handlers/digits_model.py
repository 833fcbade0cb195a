import torch


class Digits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = torch.nn.Linear(16, 10)

    def forward(self, pixels):
        return self.dense(pixels)
