"""Pure tables with their rules: engine arguments for containers and several nodes, devices, capabilities.

The tables stand in `spec/data/{images,capabilities,profiles}.toml` and reach a renderer in `Order.facts` and
`Order.images`; nothing here reads a file.
"""
