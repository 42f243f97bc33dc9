"""What `secret-agent run` is made of: a command with secrets in its environment, and masked output.

environment, env_file        what the command's environment refers to
lending, fetching, keeping   asking for the values; keeping, and giving back, what they are lent under
value_file                   values as files that stand in no folder
streams, relay               where the command's output goes, and how it is masked on its way
terminal, keys, session      a terminal of the command's own, between the user's and the command
supervision, child, signals  starting the command, and standing out of its way until it ends
"""
