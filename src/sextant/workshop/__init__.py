"""The workshop: evaluate, compress, train, adapt, distill, federate, register. The only package that
imports torch.
"""
