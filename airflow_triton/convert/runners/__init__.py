"""What runs converted files without Triton: one module for each of Triton's backends, imported only in the child process."""
