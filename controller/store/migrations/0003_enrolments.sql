-- The newest enrolment of each node and role; role '' = the whole node. Rows outlive the node: an older certificate must not
-- become good again when a node of the same id is made. `at` orders enrolments (milliseconds since the Unix epoch, and later
-- than every enrolment before it, whatever the clock says).
CREATE TABLE enrolments (
    node        TEXT    NOT NULL,
    role        TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    -- The revision that created the node resource that was enrolled.
    incarnation INTEGER NOT NULL,
    PRIMARY KEY (node, role)
) STRICT, WITHOUT ROWID;
