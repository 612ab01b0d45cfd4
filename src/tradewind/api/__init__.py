"""HTTP and WebSocket in front of the order engine.

A request goes one way: key -> limits -> body -> order desk -> answer. Nothing is kept here that a second
process, or the same one started again, would miss.
"""
