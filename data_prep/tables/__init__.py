"""Tables of users: csv, class lists, labels, the official files of Kinetics."""
