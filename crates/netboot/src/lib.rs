//! Boot scripts, the agent's server side and the image store
