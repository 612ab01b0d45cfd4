"""One function for each kind of command. It checks, records what happens in the ledger, and answers.

Each raises Refusal before it has changed anything. The book looks them up by the type of the command.
"""
