"""`python -m data_prep …`: umt-data as the tasks of a job array start it."""

from data_prep.cli import main

if __name__ == "__main__":
    main()
