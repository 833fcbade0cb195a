namespace satrap {}
