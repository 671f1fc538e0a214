"""What runs inside the sandbox: sent there as code, and imported here by nobody but tests."""
