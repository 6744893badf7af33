-- What was chosen while the service ran, above what its configuration says.
CREATE TABLE facegraph.choices (
    name text COLLATE "C" PRIMARY KEY,
    value text NOT NULL,
    configured text NOT NULL, -- the configuration's value at the time; another one takes over
    chosen_at timestamptz NOT NULL DEFAULT now()
);
