"""What commands and jobs use, without Prefect: DVC, git, processes, locks, worktrees, servers, what the stages left."""
