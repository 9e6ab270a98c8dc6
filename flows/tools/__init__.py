"""Tools of commands and jobs, without Prefect: DVC, git, processes, locks, worktrees, servers, the stages' results."""
