"""Checking a rendered bundle: our own rules, and every validator at hand. Entry: `verifying.verify`."""
