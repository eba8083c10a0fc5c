//! The Kubernetes resource types of Kube BareMetal, their validation rules, condition and reason names
