"""The planner held against measurements: serving points, published rows, aiconfigurator."""
