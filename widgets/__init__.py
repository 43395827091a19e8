"""Widgets: pictures of trace rows and of layouts. They know no SEV.

A widget is fed by `sevlab.trace` and `sevlab.wire` and imports nothing else of
sevlab. The folder is imported as `sevlab_widgets`. It holds no widget yet.
"""
